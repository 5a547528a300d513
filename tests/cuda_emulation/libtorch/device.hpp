#pragma once

#include <cuda_runtime.h>

/// @file
/// The emulator's devices for a LibTorch that was built for CPUs: linked with this, tensors can be moved to `cuda:0` and so
/// on. Whatever LibTorch itself computes there is computed by its kernels for CPUs, once the device has done its work.

namespace syncbn_test {

/// @brief While it lives, work of this thread goes into a stream, as with LibTorch's CUDAStreamGuard.
class CurrentStream {
 public:
  explicit CurrentStream(cudaStream_t stream);
  ~CurrentStream();
  CurrentStream(const CurrentStream&) = delete;
  CurrentStream& operator=(const CurrentStream&) = delete;

 private:
  cudaStream_t before_;
};

}  // namespace syncbn_test
