/// @file
/// The words of NCCL's frames lie in a device's memory.
#pragma once

#include <cstddef>
#include <cuda_runtime_api.h>
#include <vector>

#include <syncbn/backends/nccl_communicator.hpp>

#include "conformance/launcher.hpp"

namespace syncbn_test {

/// @brief Copied beside the streams that have sums under way.
template <>
struct FrameAccess<syncbn::NcclCommunicator> {
  using Frame = syncbn::NcclCommunicator::frame;

  static void write(syncbn::NcclCommunicator&, Frame& frame, syncbn::CudaQueue&, const std::vector<double>& words) {
    const syncbn::detail::CudaStream stream;
    copy(words.data(), words.size(), frame.data(), cudaMemcpyHostToDevice, stream.get());
  }
  static std::vector<double> read(syncbn::NcclCommunicator& communicator, Frame& frame, syncbn::CudaQueue& queue) {
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

/// @brief Ranks that get their unique id over the ranks of another communicator, and a device each as long as there are any.
template <class Spread>
Outcomes run_nccl_ranks(int ranks, const RankBody<syncbn::NcclCommunicator>& body) {
  return Launcher<Spread>::run(ranks, [&](Spread& spread, const Barrier& barrier) -> std::vector<double> {
    int devices = 0;
    syncbn::cuda::check(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
    syncbn::cuda::check(cudaSetDevice(spread.rank() % devices), "cudaSetDevice");
    auto communicator = syncbn::NcclCommunicator::create(spread, std::chrono::seconds(60));
    return body(communicator, barrier);
  });
}

}  // namespace syncbn_test
