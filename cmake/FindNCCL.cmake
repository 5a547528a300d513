# NCCL::NCCL, of NVIDIA's collective communication library; beside the CUDA toolkit, where that was found, or where the
# environment's NCCL_ROOT or CUDA_PATH say.
include(FindPackageHandleStandardArgs)
find_package(CUDAToolkit QUIET)
set(_nccl_roots ENV NCCL_ROOT ENV CUDA_PATH)
if(CUDAToolkit_FOUND)
  list(APPEND _nccl_roots ${CUDAToolkit_LIBRARY_ROOT} ${CUDAToolkit_TARGET_DIR})
endif()
find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${_nccl_roots} PATHS /usr/local/cuda PATH_SUFFIXES include)
find_library(NCCL_LIBRARY nccl HINTS ${_nccl_roots} PATHS /usr/local/cuda PATH_SUFFIXES lib lib64)
mark_as_advanced(NCCL_INCLUDE_DIR NCCL_LIBRARY)
find_package_handle_standard_args(NCCL REQUIRED_VARS NCCL_LIBRARY NCCL_INCLUDE_DIR)
if(NCCL_FOUND AND NOT TARGET NCCL::NCCL)
  add_library(NCCL::NCCL UNKNOWN IMPORTED)
  set_target_properties(
    NCCL::NCCL PROPERTIES IMPORTED_LOCATION "${NCCL_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${NCCL_INCLUDE_DIR}")
endif()
