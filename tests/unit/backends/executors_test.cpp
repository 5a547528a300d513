#include <syncbn/backends/executors.hpp>

#include <stdexcept>
#include <type_traits>
#include <vector>

#include "support/catch.hpp"
#include "support/parallel_loop.hpp"

namespace {

using syncbn::Index;
using syncbn::ParallelFor;
using syncbn::SerialExecutor;
using syncbn_test::ParallelLoop;

struct NotCopyable {
  NotCopyable() = default;
  NotCopyable(const NotCopyable&) = delete;
  template <class Task>
  void run(Index, const Task&) const {}
};
struct RunsOnlyOnce {
  template <class Task>
  void run(Index, const Task&) {}  // not const
};
struct RunsNothing {};

template <class Executor>
std::vector<int> times_called(const Executor& executor, Index tasks) {
  std::vector<int> calls(static_cast<std::size_t>(tasks) + 1);
  executor.run(tasks, [&](Index i) { ++calls[static_cast<std::size_t>(i)]; });
  return calls;
}

std::vector<int> once_each(Index tasks) {
  std::vector<int> result(static_cast<std::size_t>(tasks), 1);
  result.push_back(0);
  return result;
}

}  // namespace

TEST_CASE("what an executor must offer", "[executors]") {
  STATIC_REQUIRE(syncbn::executor<SerialExecutor>);
  STATIC_REQUIRE(syncbn::executor<ParallelFor<ParallelLoop>>);
  STATIC_REQUIRE_FALSE(syncbn::executor<NotCopyable>);
  STATIC_REQUIRE_FALSE(syncbn::executor<RunsOnlyOnce>);
  STATIC_REQUIRE_FALSE(syncbn::executor<RunsNothing>);
  STATIC_REQUIRE_FALSE(syncbn::executor<int>);
}

TEST_CASE("the serial executor runs tasks in order on this thread", "[executors]") {
  std::vector<Index> order;
  SerialExecutor().run(5, [&](Index i) { order.push_back(i); });
  CHECK(order == std::vector<Index>{0, 1, 2, 3, 4});
  CHECK(times_called(SerialExecutor(), 0) == once_each(0));
  CHECK_THROWS_AS(SerialExecutor().run(1, [](Index) { throw std::runtime_error("a task"); }), std::runtime_error);
}

TEST_CASE("a framework's loop runs each task once", "[executors]") {
  for (const int threads : {1, 2, 5}) {
    const ParallelFor executor(ParallelLoop{threads});
    const ParallelFor copy = executor;
    for (const Index tasks : {0, 1, 2, 3, 100}) {
      CAPTURE(threads, tasks);
      CHECK(times_called(executor, tasks) == once_each(tasks));
      CHECK(times_called(copy, tasks) == once_each(tasks));
    }
  }
}

TEST_CASE("the loop is given the number of tasks and the task", "[executors]") {
  Index given = -1;
  const ParallelFor executor([&](Index tasks, const auto& task) {  // captures, as a framework's thread pool would be
    given = tasks;
    task(1);
  });
  STATIC_REQUIRE(syncbn::executor<std::remove_const_t<decltype(executor)>>);
  std::vector<Index> called;
  executor.run(3, [&](Index i) { called.push_back(i); });
  CHECK(given == 3);
  CHECK(called == std::vector<Index>{1});
}
