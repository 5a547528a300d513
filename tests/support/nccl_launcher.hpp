/// @file
/// The ranks of NCCL as threads.
#pragma once

#include <syncbn/backends/thread_communicator.hpp>

#include "support/nccl_ranks.hpp"

namespace syncbn_test {

template <>
struct Launcher<syncbn::NcclCommunicator> {
  static Outcomes run(int ranks, const RankBody<syncbn::NcclCommunicator>& body) {
    return run_nccl_ranks<syncbn::ThreadCommunicator>(ranks, body);
  }
};

}  // namespace syncbn_test
