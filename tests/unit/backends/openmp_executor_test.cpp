#include <syncbn/backends/openmp_executor.hpp>

#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include <omp.h>

#include <syncbn/backends/cpu_backend.hpp>
#include <syncbn/batch_norm.hpp>

#include "support/activations.hpp"
#include "support/catch.hpp"

// What clang's sanitizers are to know about the OpenMP runtime, which is not instrumented: races that are none, and
// what it keeps for its threads until the process ends.
extern "C" const char* __tsan_default_options() { return "ignore_noninstrumented_modules=1"; }  // NOLINT
extern "C" const char* __lsan_default_suppressions() { return "leak:libomp"; }                  // NOLINT

namespace {

using syncbn::Index;
using syncbn::OpenMpExecutor;

class Threads {
 public:
  explicit Threads(int threads) { omp_set_num_threads(threads); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;
  ~Threads() { omp_set_num_threads(before_); }

 private:
  int before_ = omp_get_max_threads();
};

// Output, input gradient and parameter gradients of one training step.
template <class Executor>
std::vector<float> train(Index samples, Index channels, Index positions, syncbn_test::Layout layout) {
  const std::vector<Index> extents{samples, channels, positions};
  std::vector<double> values;
  for (Index i = 0; i < samples * channels * positions; ++i)
    values.push_back(static_cast<double>(i * 7919 % 1009) / 64);
  const syncbn_test::Activations<float> x(extents, values, layout);
  for (double& v : values) v = 3 - v * v / 100;
  const syncbn_test::Activations<float> dy(extents, values, layout);
  syncbn_test::Activations<float> y(extents, layout);
  syncbn_test::Activations<float> dx(extents, layout);
  syncbn::BatchNorm<1, syncbn::CpuBackend<float, Executor>> bn(channels);
  const auto saved = bn.forward(x, y);
  bn.backward(dy, x, saved, dx);
  std::vector<float> result;
  for (const auto& numbers : {y.numbers(), dx.numbers()}) {
    for (const auto number : numbers) result.push_back(static_cast<float>(number));
  }
  for (Index c = 0; c < channels; ++c) {
    result.push_back(bn.weight_grad()[c]);
    result.push_back(bn.bias_grad()[c]);
    result.push_back(bn.running_mean()[c]);
    result.push_back(bn.running_var()[c]);
  }
  return result;
}

}  // namespace

TEST_CASE("OpenMP's threads are an executor", "[openmp_executor]") {
  STATIC_REQUIRE(syncbn::executor<OpenMpExecutor>);
  STATIC_REQUIRE(syncbn::backend<syncbn::CpuBackend<float, OpenMpExecutor>>);
}

TEST_CASE("OpenMP runs each task once", "[openmp_executor]") {
  for (const int threads : {1, 2, 5}) {
    const Threads limit(threads);
    for (const std::size_t tasks : {0U, 1U, 2U, 3U, 100U}) {
      std::vector<int> calls(tasks);
      OpenMpExecutor().run(static_cast<Index>(tasks), [&](Index i) { ++calls[static_cast<std::size_t>(i)]; });
      CAPTURE(threads, tasks);
      CHECK(calls == std::vector<int>(tasks, 1));
    }
  }
}

TEST_CASE("several threads of OpenMP take part", "[openmp_executor]") {
  const Threads limit(2);
  std::atomic<unsigned> seen = 0;
  OpenMpExecutor().run(64, [&](Index) { seen |= 1U << omp_get_thread_num(); });
  CHECK(seen == 3U);
}

TEST_CASE("what a task throws on a thread of OpenMP is thrown by run()", "[openmp_executor]") {
  const Threads limit(3);
  for (const Index failing : {0, 7, 49}) {
    std::atomic<int> others = 0;
    const auto task = [&](Index i) {
      if (i == failing) throw std::runtime_error("task");
      ++others;
    };
    CHECK_THROWS_WITH(OpenMpExecutor().run(50, task), "task");
    CHECK(others == 49);
  }
  CHECK_THROWS_WITH(OpenMpExecutor().run(50, [](Index) { throw std::runtime_error("all"); }), "all");
}

TEST_CASE("a training step gives the same bits on any number of threads", "[openmp_executor]") {
  for (const auto layout : syncbn_test::all_layouts) {
    const auto serial = train<syncbn::SerialExecutor>(9, 11, 1000, layout);
    for (const int threads : {1, 2, 5}) {
      const Threads limit(threads);
      CAPTURE(threads, name(layout));
      CHECK((train<OpenMpExecutor>(9, 11, 1000, layout) == serial));
    }
  }
}
