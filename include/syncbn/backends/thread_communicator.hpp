#pragma once

#include <chrono>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <syncbn/all_reduce.hpp>
#include <syncbn/backends/detail/thread_group.hpp>
#include <syncbn/concepts.hpp>

namespace syncbn::inline v0 {

/// @brief Threads of one process as ranks.
///
/// Each rank is used by one thread at a time. Copies are handles to the same rank of the same group.
/// @determinism{words are added in the order of ranks, whoever comes last}
class ThreadCommunicator {
 public:
  using memory_space = HostSpace;                              ///< host memory
  using queue_type = HostQueue;                                ///< none
  static constexpr ErrorModel errors = ErrorModel::immediate;  ///< exceptions come from the call itself
  /// @brief Words of this rank that are summed over the group.
  using frame = detail::PooledFrame<detail::ThreadGroup, detail::ThreadFlight>;

  /// @brief All ranks of a new group. @param ranks  how many, at least 1.
  /// @return one communicator for each rank, in order. @throws Error if there is none.
  static std::vector<ThreadCommunicator> create(int ranks) {
    if (ranks < 1) throw Error("a group has at least 1 rank, not " + std::to_string(ranks));
    const auto group = std::make_shared<detail::ThreadGroup>(ranks);
    std::vector<ThreadCommunicator> result;
    for (int r = 0; r < ranks; ++r) result.push_back(ThreadCommunicator(group, r));
    return result;
  }

  /// @brief This rank. @return 0 to size() - 1.
  int rank() const noexcept { return rank_; }
  /// @brief Ranks in the group. @return as created.
  int size() const noexcept { return group_->size(); }
  /// @brief Whether sums are still possible. @return false after a deadline or when a rank has left with an error.
  bool usable() const noexcept { return group_->usable(); }
  /// @brief How long a frame waits for the other ranks, for the whole group. @param timeout  default: 10 minutes.
  void set_timeout(std::chrono::nanoseconds timeout) { group_->set_timeout(timeout); }

  /// @brief A frame of zeros. @param words  how many. @return the frame; its storage is the group's.
  frame acquire(Index words) { return frame(group_, group_->acquire(words)); }
  /// @brief Offers the words to the sum. @param f  not to be touched before finish().
  /// @throws CommunicatorError if the group is not usable, or frames of different sizes met.
  void start(frame& f, HostQueue&) { group_->start(rank_, f.storage()); }
  /// @brief Whether the sum is there. @param f  a started frame. @return true if finish() will not wait.
  bool poll(frame& f) noexcept { return group_->poll(f.storage()); }
  /// @brief Waits for the sum. @param f  a started frame; holds the sums afterwards.
  /// @throws CommunicatorError past the deadline, naming the ranks that did not come.
  void finish(frame& f, HostQueue&) { group_->finish(f.storage()); }

  /// @brief The ranks that gave the same color, as a group of their own. @collective{one sum over the old group}
  /// @param color  0 or more. @param key  orders the ranks of the new group; equal keys: by old rank.
  /// @return the new communicator, with the old one's timeout. @throws Error if a color is negative, on every rank.
  ThreadCommunicator split(int color, int key) {
    std::vector<double> table(2 * static_cast<std::size_t>(size()));
    table[2 * static_cast<std::size_t>(rank_)] = color;
    table[2 * static_cast<std::size_t>(rank_) + 1] = key;
    all_reduce_sum(*this, table);
    int new_size = 0;
    int new_rank = 0;
    for (int r = 0; r < size(); ++r) {
      const double its_color = table[2 * static_cast<std::size_t>(r)];
      const double its_key = table[2 * static_cast<std::size_t>(r) + 1];
      if (its_color < 0) throw Error("split: rank " + std::to_string(r) + " gave a negative color");
      if (its_color != color) continue;
      ++new_size;
      if (its_key < key || (its_key == key && r < rank_)) ++new_rank;
    }
    return ThreadCommunicator(group_->join(rank_, color, new_size, new_rank), new_rank);
  }

  /// @brief Numbers the layers that are made with this group. @return 0, 1, ... in order of calls, on each rank.
  std::uint64_t next_ordinal() noexcept { return group_->next_ordinal(rank_); }
  /// @brief Says that this rank will start no more frames; ranks that wait for it throw. @param why  empty: no error.
  void leave(std::string_view why = {}) noexcept { group_->leave(rank_, why); }

 private:
  ThreadCommunicator(std::shared_ptr<detail::ThreadGroup> group, int rank) : group_(std::move(group)), rank_(rank) {}

  std::shared_ptr<detail::ThreadGroup> group_;
  int rank_;
};

/// @brief Runs `f(communicator)` on as many threads as there are ranks, and waits for all.
/// @param ranks  how many threads and ranks. @param f  called once on each, with that rank's ThreadCommunicator.
/// @throws whatever a rank threw first; the others are told that it left, so that none waits for it.
template <class F>
void run_thread_ranks(int ranks, const F& f) {
  std::vector<ThreadCommunicator> group = ThreadCommunicator::create(ranks);
  std::mutex mutex;
  std::exception_ptr first;
  const auto body = [&](ThreadCommunicator communicator) {
    const auto fail = [&](std::string_view why) {
      {
        const std::lock_guard lock(mutex);
        if (first == nullptr) first = std::current_exception();
      }
      communicator.leave(why);
    };
    try {
      f(communicator);
      communicator.leave();
    } catch (const std::exception& e) {
      fail(e.what());
    } catch (...) {
      fail("an exception of unknown type");
    }
  };
  std::vector<std::thread> threads;  // libc++ has no std::jthread yet
  threads.reserve(group.size());
  const auto join = [&] {
    for (std::thread& thread : threads) thread.join();
  };
  try {
    for (const ThreadCommunicator& communicator : group) threads.emplace_back(body, communicator);
  } catch (...) {
    // Those that run wait for the others.
    for (std::size_t r = threads.size(); r < group.size(); ++r) group[r].leave("no thread for this rank");
    join();
    throw;
  }
  join();
  if (first != nullptr) std::rethrow_exception(first);
}

}  // namespace syncbn::inline v0
