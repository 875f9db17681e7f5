# Installs the client into an empty prefix, then configures, builds and runs the project against it.
file(REMOVE_RECURSE "${WORK_DIR}")
set(_prefix "${WORK_DIR}/prefix")
set(_build "${WORK_DIR}/build")
if(SANITIZE)
  set(_flags "-fsanitize=${SANITIZE}")
endif()

function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

run("${CMAKE_COMMAND}" --install "${KEYLOAD_BUILD_DIR}" --prefix "${_prefix}" --component client)
run("${CMAKE_COMMAND}" -S "${PROJECT_DIR}" -B "${_build}" -G Ninja "-DCMAKE_PREFIX_PATH=${_prefix}"
    "-DCMAKE_CXX_COMPILER=${COMPILER}" "-DCMAKE_CXX_FLAGS=${_flags}")
run("${CMAKE_COMMAND}" --build "${_build}")
run("${_build}/consumer")
run("${_prefix}/bin/keyload" version)
