// MPI and threads are the same ranks: identical bits on two, where a sum has one order only, and the same within rounding
// on more.

#include <cstddef>
#include <tuple>
#include <vector>

#include <syncbn/backends/mpi_communicator.hpp>
#include <syncbn/syncbn.hpp>

#include "conformance/layer_laws.hpp"
#include "conformance/mpi_launcher.hpp"
#include "support/catch.hpp"

namespace {

using namespace syncbn_test;
using Backend = syncbn::CpuBackend<double>;
using Formats = std::tuple<float, double>;

}  // namespace

TEMPLATE_LIST_TEST_CASE("MPI and threads give the same", "[mpi]", Formats) {
  const int ranks = ranks_under_test<syncbn::MpiCommunicator>();
  for (const StepPlan& plan : plans_for(ranks)) {
    INFO(text_of(plan));
    const Batch<TestType, 2> batch(plan);
    const auto over_mpi = step_on_all_ranks<TestType, 2, Backend, syncbn::MpiCommunicator>(plan, batch);
    const auto over_threads = step_on_all_ranks<TestType, 2, Backend, syncbn::ThreadCommunicator>(plan, batch);
    if (ranks <= 2) {
      bool same = true;
      for (std::size_t r = 0; r < over_mpi.size(); ++r) {
        same = same && same_bits(over_mpi[r].packed(), over_threads[r].packed());
      }
      CHECK(same);
    }
    const StepJudge<TestType, 2, double> judge(plan, batch, ranks);
    const Comparison comparison = judge.against(together(over_mpi), together(over_threads));
    INFO(comparison.place());
    CHECK(comparison.worst() <= 1);
  }
}
