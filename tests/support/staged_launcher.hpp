/// @file
/// The ranks of a staged communicator are those of the one that it stages.
#pragma once

#include <vector>

#include <syncbn/backends/staged.hpp>

#include "conformance/launcher.hpp"

namespace syncbn_test {

template <class Host>
struct Launcher<syncbn::Staged<Host>> {
  static Outcomes run(int ranks, const RankBody<syncbn::Staged<Host>>& body) {
    return Launcher<Host>::run(ranks, [&](Host& host, const Barrier& barrier) -> std::vector<double> {
      syncbn::Staged<Host> staged(host);
      return body(staged, barrier);
    });
  }
};

}  // namespace syncbn_test
