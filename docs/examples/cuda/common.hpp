#pragma once

#include <cstdio>
#include <cstdlib>
#include <cuda_runtime_api.h>
#include <vector>

#include <syncbn/backends/cuda_space.hpp>
#include <syncbn/tensor_view.hpp>

#include "../compare.hpp"

/// @file
/// What the examples for CUDA share: activations in host and device memory.

namespace example {

inline constexpr syncbn::Index samples = 8, channels = 12, height = 5, width = 7;

/// @brief Stops the program, with a reason, where CUDA fails.
inline void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "CUDA: %s\n", cudaGetErrorString(error));
  std::exit(1);
}

/// @brief How many CUDA devices there are; says why there are none.
inline int devices() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return count;
  std::printf("skipped: no CUDA device (%s)\n", cudaGetErrorString(error));
  return 0;
}

/// @brief One (N, C, H, W) tensor, on the host and on the device.
class Activations {
 public:
  explicit Activations(unsigned seed) : host_(numbers(samples * channels * height * width, seed)) {
    check(cudaMalloc(&device_, bytes()));
    check(cudaMemcpy(device_, host_.data(), bytes(), cudaMemcpyHostToDevice));
  }
  Activations(const Activations&) = delete;
  Activations& operator=(const Activations&) = delete;
  ~Activations() { cudaFree(device_); }

  syncbn::TensorView<float> on_host() { return {host_.data(), {samples, channels, height, width}}; }
  syncbn::TensorView<float, syncbn::CudaSpace> on_device() { return {device_, {samples, channels, height, width}}; }
  const std::vector<float>& host() const { return host_; }

  /// @brief What the device has, after all that was put into streams.
  std::vector<float> download() const {
    std::vector<float> values(host_.size());
    check(cudaDeviceSynchronize());
    check(cudaMemcpy(values.data(), device_, bytes(), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  std::size_t bytes() const { return host_.size() * sizeof(float); }

  std::vector<float> host_;
  float* device_ = nullptr;
};

}  // namespace example
