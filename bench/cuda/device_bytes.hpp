#pragma once

#include <cstddef>
#include <cuda_runtime_api.h>
#include <utility>

#include <syncbn/backends/detail/cuda_check.hpp>

namespace bench {

/// @brief Memory of the device, zeros.
class DeviceBytes {
 public:
  DeviceBytes() = default;
  explicit DeviceBytes(std::size_t bytes) { reset(bytes); }
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;
  ~DeviceBytes() { static_cast<void>(cudaFree(data_)); }

  void reset(std::size_t bytes) {
    syncbn::cuda::check(cudaFree(std::exchange(data_, nullptr)), "cudaFree");
    size_ = 0;
    if (bytes > 0) syncbn::cuda::check(cudaMalloc(&data_, bytes), "cudaMalloc");
    size_ = bytes;
    clear();
  }
  void clear() {
    if (size_ > 0) syncbn::cuda::check(cudaMemset(data_, 0, size_), "cudaMemset");
  }
  std::byte* data() const { return static_cast<std::byte*>(data_); }
  std::size_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace bench
