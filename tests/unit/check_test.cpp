#include <syncbn/check.hpp>

#include <syncbn/backends/cpu_backend.hpp>
#include <syncbn/backends/single_process_communicator.hpp>
#include <syncbn/backends/thread_communicator.hpp>

#include "support/catch.hpp"

// That a missing requirement is an error, and its text, is for tests/compile_fail: here, that nothing else is.

namespace {

using syncbn::CpuBackend;
using syncbn::SingleProcessCommunicator;
using syncbn::TensorView;
using syncbn::ThreadCommunicator;

static_assert(syncbn::check_tensor<TensorView<float>>());
static_assert(syncbn::check_communicator<ThreadCommunicator>());

}  // namespace

TEST_CASE("the library's own types pass their checks", "[check]") {
  STATIC_REQUIRE(syncbn::check_tensor<TensorView<const double>>());
  STATIC_REQUIRE(syncbn::check_tensor<const TensorView<syncbn::Float16>>());
  STATIC_REQUIRE(syncbn::check_communicator<SingleProcessCommunicator>());
  STATIC_REQUIRE(syncbn::check_communicator<ThreadCommunicator>());
  STATIC_REQUIRE(syncbn::check_backend<CpuBackend<float>>());
  STATIC_REQUIRE(syncbn::check_backend<CpuBackend<double>>());
  STATIC_REQUIRE(syncbn::check_reaches_memory_of<ThreadCommunicator, CpuBackend<double>>());
}
