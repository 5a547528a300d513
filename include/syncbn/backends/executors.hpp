#pragma once

#include <concepts>
#include <memory>
#include <utility>

#include <syncbn/tensor_view.hpp>

namespace syncbn::inline v0 {

namespace detail {
struct AnyTask {
  void operator()(Index) const noexcept {}
};
}  // namespace detail

/// @brief How a backend's tasks are run: `run(n, task)` calls `task(i)` once for each i in [0, n), in any order, on any
/// threads, and returns when all are done. Results never depend on which thread runs what.
template <class E>
concept executor = std::copyable<E> && requires(const E& e, detail::AnyTask task) { e.run(Index{1}, task); };

/// @brief One task after the other on the calling thread.
class SerialExecutor {
 public:
  /// @brief Runs the tasks. @param tasks  how many. @param task  called with 0, 1, ...
  template <class Task>
  void run(Index tasks, const Task& task) const {
    for (Index i = 0; i < tasks; ++i) task(i);
  }
};

/// @brief A framework's own parallel loop as an executor.
/// @tparam Loop  callable as `loop(n, task)`; it calls `task(i)` for each i in [0, n) and waits for all.
template <class Loop>
class ParallelFor {
 public:
  /// @brief Wraps a loop. @param loop  a lambda may capture; what it refers to must outlive the executor and its copies.
  explicit ParallelFor(Loop loop) : loop_(std::make_shared<const Loop>(std::move(loop))) {}

  /// @brief Runs the tasks. @param tasks  how many. @param task  called with 0 to tasks - 1, on the loop's threads.
  template <class Task>
  void run(Index tasks, const Task& task) const {
    (*loop_)(tasks, task);
  }

 private:
  // Shared, because a lambda that captures cannot be assigned and executors can.
  std::shared_ptr<const Loop> loop_;
};

}  // namespace syncbn::inline v0
