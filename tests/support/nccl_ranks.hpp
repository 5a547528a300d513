/// @file
/// The ranks of NCCL.
#pragma once

#include <chrono>
#include <cuda_runtime_api.h>
#include <vector>

#include <syncbn/backends/nccl_communicator.hpp>

#include "support/device_frames.hpp"

namespace syncbn_test {

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
