# How keyload's targets are declared. Flags live on one interface target, so that generated and third-party code
# is never compiled with ours.

add_library(keyload_flags INTERFACE)
target_compile_features(keyload_flags INTERFACE cxx_std_20)
target_compile_options(keyload_flags INTERFACE -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Wno-missing-field-initializers -pthread
  $<$<CXX_COMPILER_ID:Clang>:-Wthread-safety -Werror=thread-safety>
  $<$<BOOL:${KEYLOAD_WERROR}>:-Werror>)
target_include_directories(keyload_flags INTERFACE $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}>)

if(KEYLOAD_SANITIZE)
  add_compile_options(-fsanitize=${KEYLOAD_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${KEYLOAD_SANITIZE})
elseif(CMAKE_BUILD_TYPE STREQUAL "RelWithDebInfo")
  add_compile_options(-fstack-protector-strong)
  add_compile_definitions(_FORTIFY_SOURCE=2)
  add_link_options(-Wl,-z,relro,-z,now)
endif()

# Headers of the standard library and of abseil that most files include: parsed once for all libraries
# instead of once for each file. The presets dev, asan, tsan and tidy compile without, so that each file still includes what it uses.
set(KEYLOAD_COMMON_HEADERS <algorithm> <chrono> <functional> <map> <memory> <optional> <span> <string> <string_view> <utility>
  <vector> <absl/container/flat_hash_map.h> <absl/container/flat_hash_set.h> <absl/status/statusor.h>
  <absl/strings/str_cat.h> <absl/strings/str_format.h> <absl/strings/str_join.h> <absl/time/time.h>)
file(CONFIGURE OUTPUT "${CMAKE_BINARY_DIR}/nothing.cc" CONTENT "")
add_library(keyload_common_headers STATIC "${CMAKE_BINARY_DIR}/nothing.cc")
target_link_libraries(keyload_common_headers PRIVATE keyload_flags)
target_precompile_headers(keyload_common_headers PRIVATE ${KEYLOAD_COMMON_HEADERS})

# keyload_library(NAME SOURCES a.cc ... [DEPS ...] [PRIVATE_DEPS ...] [PRECOMPILE <header> ...])
# One folder, one static library: target keyload_NAME with the alias keyload::NAME. PRECOMPILE names headers that are parsed
# once for this library, besides KEYLOAD_COMMON_HEADERS.
function(keyload_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;PRIVATE_DEPS;PRECOMPILE" ${ARGN})
  add_library(keyload_${name} STATIC ${ARG_SOURCES})
  add_library(keyload::${name} ALIAS keyload_${name})
  target_link_libraries(keyload_${name} PUBLIC ${ARG_DEPS} PRIVATE $<BUILD_INTERFACE:keyload_flags> ${ARG_PRIVATE_DEPS})
  target_include_directories(keyload_${name} PUBLIC $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}>)
  if(ARG_PRECOMPILE)
    target_precompile_headers(keyload_${name} PRIVATE ${KEYLOAD_COMMON_HEADERS} ${ARG_PRECOMPILE})
  else()
    target_precompile_headers(keyload_${name} REUSE_FROM keyload_common_headers)
  endif()
endfunction()

# Tests are compiled quickly; what they test is compiled as it ships. With -Og GCC 12 sees uninitialized memory in the standard
# library; the other presets look for it.
set(KEYLOAD_TEST_OPTIONS $<$<CONFIG:RelWithDebInfo>:-Og> $<$<CONFIG:RelWithDebInfo>:-Wno-maybe-uninitialized>)

# keyload_test(NAME LABEL unit|contract|integration SOURCES a_test.cc ... [DEPS ...] [ENV K=V ...])
# One GoogleTest binary; each TEST is a ctest test. KEYLOAD_SOURCE_DIR is set for tests that read tests/data.
function(keyload_test name)
  cmake_parse_arguments(ARG "" "LABEL" "SOURCES;DEPS;ENV" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE keyload_flags ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  target_compile_options(${name} PRIVATE ${KEYLOAD_TEST_OPTIONS})
  if(TARGET keyload_test_headers)
    target_precompile_headers(${name} REUSE_FROM keyload_test_headers)
  endif()
  if(NOT ARG_LABEL STREQUAL "integration")
    set_property(GLOBAL APPEND PROPERTY KEYLOAD_QUICK_TESTS ${name})
  endif()
  include(GoogleTest)
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 DISCOVERY_MODE PRE_TEST
    PROPERTIES LABELS ${ARG_LABEL} TIMEOUT 120
    ENVIRONMENT "KEYLOAD_SOURCE_DIR=${CMAKE_SOURCE_DIR};KEYLOAD_BIN_DIR=${CMAKE_RUNTIME_OUTPUT_DIRECTORY};${ARG_ENV}")
endfunction()
