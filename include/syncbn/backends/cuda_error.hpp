#pragma once

#include <cuda_runtime_api.h>
#include <string>

#include <syncbn/errors.hpp>

namespace syncbn::inline v0 {

/// @brief A call of the CUDA runtime failed: there is no driver or no memory, or a kernel before it went wrong.
class CudaError : public Error {
 public:
  /// @brief With what the runtime says. @param code  not cudaSuccess. @param call  which function.
  CudaError(cudaError_t code, const char* call)
      : Error(std::string(call) + ": " + cudaGetErrorName(code) + ", " + cudaGetErrorString(code)), code_(code) {}
  /// @brief What the runtime returned. @return the code.
  cudaError_t code() const noexcept { return code_; }

 private:
  cudaError_t code_;
};

}  // namespace syncbn::inline v0
