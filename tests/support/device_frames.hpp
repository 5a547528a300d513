/// @file
/// The words of frames that lie in a device's memory.
#pragma once

#include <concepts>
#include <cstddef>
#include <cuda_runtime_api.h>
#include <vector>

#include <syncbn/backends/cuda_queue.hpp>
#include <syncbn/backends/detail/cuda_check.hpp>
#include <syncbn/backends/detail/cuda_handles.hpp>

#include "conformance/launcher.hpp"

namespace syncbn_test {

/// @brief Copied beside the streams that have sums under way.
template <class Communicator>
  requires std::same_as<typename Communicator::queue_type, syncbn::CudaQueue> && syncbn::defers_errors<Communicator>
struct FrameAccess<Communicator> {
  using Frame = typename Communicator::frame;

  static void write(Communicator&, Frame& frame, syncbn::CudaQueue&, const std::vector<double>& words) {
    const syncbn::detail::CudaStream stream;
    copy(words.data(), words.size(), frame.data(), cudaMemcpyHostToDevice, stream.get());
  }
  static std::vector<double> read(Communicator& communicator, Frame& frame, syncbn::CudaQueue& queue) {
    communicator.synchronize(queue);
    const syncbn::detail::CudaStream stream;
    std::vector<double> words(static_cast<std::size_t>(frame.size()));
    copy(frame.data(), words.size(), words.data(), cudaMemcpyDeviceToHost, stream.get());
    return words;
  }

 private:
  static void copy(const double* from, std::size_t words, double* to, cudaMemcpyKind kind, cudaStream_t stream) {
    syncbn::cuda::check(cudaMemcpyAsync(to, from, words * sizeof(double), kind, stream), "cudaMemcpyAsync");
    syncbn::cuda::check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  }
};

}  // namespace syncbn_test
