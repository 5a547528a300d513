#pragma once

#include <cuda_runtime_api.h>

#include <syncbn/backends/cuda_error.hpp>

namespace syncbn::inline v0::cuda {

inline void check(cudaError_t code, const char* call) {
  if (code == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // it is thrown now, and not to be found by others
  throw CudaError(code, call);
}

}  // namespace syncbn::inline v0::cuda
