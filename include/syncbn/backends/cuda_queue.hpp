#pragma once

#include <cuda_runtime_api.h>

namespace syncbn::inline v0 {

/// @brief The stream of a CUDA device that work is put into, in order. Not owned: it outlives what uses it.
struct CudaQueue {
  cudaStream_t stream = nullptr;  ///< the runtime's; null is the default stream
};

}  // namespace syncbn::inline v0
