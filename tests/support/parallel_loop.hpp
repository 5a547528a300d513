#pragma once

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include <syncbn/tensor_view.hpp>

namespace syncbn_test {

/// @brief A parallel loop as a framework has one: threads take the tasks from the last to the first, in whatever order
/// they come. With one thread it is this one.
struct ParallelLoop {
  int threads = 1;  ///< at least 1

  /// @brief Calls task(i) for each i below @p tasks and waits for all.
  template <class Task>
  void operator()(syncbn::Index tasks, const Task& task) const {
    std::atomic<syncbn::Index> left = tasks;
    const auto work = [&] {
      for (syncbn::Index i = --left; i >= 0; i = --left) task(i);
    };
    std::vector<std::thread> others;
    const auto wanted = std::min<syncbn::Index>(threads, tasks);
    for (syncbn::Index t = 1; t < wanted; ++t) others.emplace_back(work);
    work();
    for (std::thread& t : others) t.join();
  }
};

}  // namespace syncbn_test
