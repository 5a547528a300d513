/// @file
/// The ranks of an erased communicator are threads.
#pragma once

#include <vector>

#include <syncbn/backends/any_communicator.hpp>
#include <syncbn/backends/thread_communicator.hpp>

#include "conformance/launcher.hpp"

namespace syncbn_test {

template <>
struct Launcher<syncbn::AnyCommunicator> {
  static Outcomes run(int ranks, const RankBody<syncbn::AnyCommunicator>& body) {
    return Launcher<syncbn::ThreadCommunicator>::run(
        ranks, [&](syncbn::ThreadCommunicator& thread, const Barrier& barrier) -> std::vector<double> {
          syncbn::AnyCommunicator any(thread);
          return body(any, barrier);
        });
  }
};

}  // namespace syncbn_test
