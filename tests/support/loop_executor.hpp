#pragma once

#include <syncbn/backends/executors.hpp>

#include "support/parallel_loop.hpp"

namespace syncbn_test {

/// @brief A framework's own parallel loop, as an executor that a backend makes by itself.
class LoopExecutor : public syncbn::ParallelFor<ParallelLoop> {
 public:
  LoopExecutor() : ParallelFor(ParallelLoop{3}) {}
};

}  // namespace syncbn_test
