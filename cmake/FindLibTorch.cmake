# Finds LibTorch without a CUDA toolkit and makes the imported target LibTorch::LibTorch (libtorch_cpu and libc10).
# LIBTORCH_ROOT may name any LibTorch: the torch package of a Python environment, or the unpacked CPU archive. Without it the
# part that scripts/bootstrap.sh unpacks is taken, or the whole torch package that the tests import.
file(GLOB _libtorch_candidates "${KEYLOAD_PYTHON_PREFIX}/libtorch" "${KEYLOAD_PYTHON_PREFIX}/lib/python3*/site-packages/torch")
find_path(LibTorch_INCLUDE_DIR ATen/ATen.h HINTS ${LIBTORCH_ROOT} ${_libtorch_candidates} PATH_SUFFIXES include NO_CMAKE_SYSTEM_PATH)
find_library(LibTorch_CPU_LIBRARY torch_cpu HINTS ${LIBTORCH_ROOT} ${_libtorch_candidates} PATH_SUFFIXES lib NO_CMAKE_SYSTEM_PATH)
find_library(LibTorch_C10_LIBRARY c10 HINTS ${LIBTORCH_ROOT} ${_libtorch_candidates} PATH_SUFFIXES lib NO_CMAKE_SYSTEM_PATH)
mark_as_advanced(LibTorch_INCLUDE_DIR LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch REQUIRED_VARS LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY LibTorch_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "run scripts/bootstrap.sh build, set LIBTORCH_ROOT, or configure with -DKEYLOAD_WITH_TORCH=OFF")

if(LibTorch_FOUND AND NOT TARGET LibTorch::LibTorch)
  add_library(LibTorch::C10 SHARED IMPORTED)
  set_target_properties(LibTorch::C10 PROPERTIES IMPORTED_LOCATION "${LibTorch_C10_LIBRARY}")
  add_library(LibTorch::LibTorch SHARED IMPORTED)
  set_target_properties(LibTorch::LibTorch PROPERTIES
    IMPORTED_LOCATION "${LibTorch_CPU_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${LibTorch_INCLUDE_DIR}"
    INTERFACE_LINK_LIBRARIES LibTorch::C10)
endif()
