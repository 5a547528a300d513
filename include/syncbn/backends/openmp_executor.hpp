#pragma once

#if !defined(_OPENMP)
#error "syncbn/backends/openmp_executor.hpp needs OpenMP: compile with -fopenmp, or link syncbn::openmp"
#endif

#include <atomic>
#include <exception>

#include <syncbn/tensor_view.hpp>

namespace syncbn::inline v0 {

/// @brief Tasks on OpenMP's threads: as many as `OMP_NUM_THREADS` and the surrounding code say.
class OpenMpExecutor {
 public:
  /// @brief Runs the tasks. @param tasks  how many. @param task  called with 0 to tasks - 1.
  /// @throws whatever a task threw first: an exception may not leave a parallel region by itself.
  template <class Task>
  void run(Index tasks, const Task& task) const {
    std::exception_ptr first;
    std::atomic_flag failed;
#pragma omp parallel for schedule(static) if (tasks > 1)
    for (Index i = 0; i < tasks; ++i) {
      try {
        task(i);
      } catch (...) {
        if (!failed.test_and_set()) first = std::current_exception();
      }
    }
    if (first != nullptr) std::rethrow_exception(first);
  }
};

}  // namespace syncbn::inline v0
