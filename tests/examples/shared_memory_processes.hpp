// The ranks of the example communicator as processes, for the laws.
#pragma once

#include <cstddef>
#include <vector>

// [begin]
#include <shared_memory_communicator.hpp>

#include "conformance/process_launcher.hpp"

template <>
struct syncbn_test::Launcher<example::SharedMemoryCommunicator> {
  using Communicator = example::SharedMemoryCommunicator;

  static Outcomes run(int ranks, const RankBody<Communicator>& body) {
    const std::vector<Communicator> all = Communicator::create(ranks);  // before the processes part
    return run_on_processes<Communicator>(ranks, [&](int rank) { return all[static_cast<std::size_t>(rank)]; }, body);
  }
};
// [end]
