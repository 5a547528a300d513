/// @file
/// The ranks of NCCL as processes, which MPI has started.
#pragma once

#include <syncbn/backends/mpi_communicator.hpp>

#include "conformance/mpi_launcher.hpp"
#include "support/nccl_ranks.hpp"

namespace syncbn_test {

template <>
struct Launcher<syncbn::NcclCommunicator> {
  static Outcomes run(int ranks, const RankBody<syncbn::NcclCommunicator>& body) {
    return run_nccl_ranks<syncbn::MpiCommunicator>(ranks, body);
  }
};

}  // namespace syncbn_test
