#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include <syncbn/backends/thread_communicator.hpp>

/// @file
/// Work on thread ranks whose results are judged by the main thread: Catch2's macros are not thread-safe.

namespace syncbn_test {

/// @brief Longer than any exchange of a test takes, shorter than a test's own limit.
inline constexpr std::chrono::seconds rank_timeout{60};

/// @brief Calls `f(communicator)` on each rank. @return what each returned, in the order of ranks.
/// @throws what a rank threw first.
template <class F>
auto on_thread_ranks(int ranks, const F& f) {
  using Result = std::invoke_result_t<const F&, syncbn::ThreadCommunicator>;
  // An object for each rank: those of a std::vector<bool> share their words, and ranks would overwrite each other's.
  std::vector<std::optional<Result>> of_ranks(static_cast<std::size_t>(ranks));
  syncbn::run_thread_ranks(ranks, [&](syncbn::ThreadCommunicator communicator) {
    communicator.set_timeout(rank_timeout);
    of_ranks[static_cast<std::size_t>(communicator.rank())] = f(communicator);
  });
  std::vector<Result> results;
  for (auto& result : of_ranks) results.push_back(std::move(*result));
  return results;
}

}  // namespace syncbn_test
