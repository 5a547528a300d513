#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <syncbn/backends/detail/frame_pool.hpp>
#include <syncbn/errors.hpp>

// What the ranks of a ThreadCommunicator share. The k-th frame that each rank starts belongs to one sum; the rank that
// comes last adds the words up in the order of ranks and writes the sums into everybody's frame.

namespace syncbn::inline v0::detail {

using Clock = std::chrono::steady_clock;

struct ThreadFlight {
  bool started = false;
  std::uint64_t sequence = 0;
  Clock::time_point deadline{};  // none before somebody asks
};

class ThreadGroup {
 public:
  using Storage = FrameStorage<ThreadFlight>;
  static constexpr std::size_t most_in_flight = 64;

  explicit ThreadGroup(int ranks) : members_(static_cast<std::size_t>(ranks)) {
    for (std::size_t i = 0; i < most_in_flight; ++i) {
      sums_[i].sequence = i;
      sums_[i].parts.resize(members_.size());
    }
  }

  int size() const noexcept { return static_cast<int>(members_.size()); }

  bool usable() noexcept {
    const std::lock_guard lock(mutex_);
    return failure_.empty();
  }

  void set_timeout(Clock::duration timeout) noexcept {
    const std::lock_guard lock(mutex_);
    timeout_ = timeout;
  }

  Storage* acquire(Index words) {
    const std::lock_guard lock(mutex_);
    return pool_.acquire(words, [this](const ThreadFlight& flight) { return landed(flight); });
  }

  void release(Storage& storage) noexcept {
    const std::lock_guard lock(mutex_);
    storage.owned = false;
  }

  void start(int rank, Storage& storage) {
    std::unique_lock lock(mutex_);
    if (!failure_.empty()) throw CommunicatorError(failure_);
    Member& member = members_[at(rank)];
    storage.flight = {true, member.next_sequence, deadline()};
    Sum& sum = sums_[member.next_sequence % most_in_flight];
    // The slot is still taken by the sum 64 frames ago: the other ranks are that far behind.
    wait(lock, storage.flight, [&] { return sum.sequence == storage.flight.sequence; });
    storage.flight.deadline = {};
    ++member.next_sequence;
    sum.parts[at(rank)] = &storage;
    if (++sum.arrived < members_.size()) return;
    if (!same_sizes(sum)) fail("frames of different sizes met in one sum: " + sizes(sum));
    sum.adding = true;
    lock.unlock();  // nobody else touches this sum until its sequence moves on
    add_up(sum);
    lock.lock();
    for (Storage*& part : sum.parts) part = nullptr;
    sum.arrived = 0;
    sum.adding = false;
    sum.sequence += most_in_flight;
    changed_.notify_all();
  }

  // True whenever finish() will not wait: it may throw at once.
  bool poll(Storage& storage) noexcept {
    const std::lock_guard lock(mutex_);
    ThreadFlight& flight = storage.flight;
    if (landed(flight) || !failure_.empty()) return true;
    if (flight.deadline == Clock::time_point()) flight.deadline = deadline();
    return Clock::now() >= flight.deadline;
  }

  void finish(Storage& storage) {
    std::unique_lock lock(mutex_);
    // Time spent on other work before anybody asked does not count.
    const Clock::time_point asked = storage.flight.deadline;
    if (asked == Clock::time_point() || asked > Clock::now()) storage.flight.deadline = deadline();
    wait(lock, storage.flight, [&] { return landed(storage.flight); });
    storage.flight.started = false;
  }

  // A rank that will start no more frames; whoever waits for it is told at once.
  void leave(int rank, std::string_view why) noexcept {
    const std::lock_guard lock(mutex_);
    members_[at(rank)].left = true;
    for (const auto& [part, part_rank] : members_[at(rank)].parts) part->leave(part_rank, why);
    if (!why.empty() && failure_.empty()) {
      try {
        failure_ = "rank " + std::to_string(rank) + " left with an error: " + std::string(why);
      } catch (...) {
        failure_ = "a rank failed";  // so short that no memory is needed
      }
    }
    changed_.notify_all();
  }

  std::uint64_t next_ordinal(int rank) noexcept {
    const std::lock_guard lock(mutex_);
    return members_[at(rank)].layers++;
  }

  // The group of all ranks that come with the same `color` in this rank's next split; `ranks` of them will come.
  std::shared_ptr<ThreadGroup> join(int rank, int color, int ranks, int part_rank) {
    const std::lock_guard lock(mutex_);
    const auto key = std::make_pair(members_[at(rank)].splits++, color);
    Joining& joining = joining_[key];
    if (joining.group == nullptr) joining.group = std::make_shared<ThreadGroup>(ranks);
    const auto group = joining.group;
    group->set_timeout(timeout_);
    members_[at(rank)].parts.emplace_back(group, part_rank);
    if (++joining.came == ranks) joining_.erase(key);
    return group;
  }

 private:
  struct Member {
    std::uint64_t next_sequence = 0;
    std::uint64_t layers = 0;
    std::uint64_t splits = 0;
    bool left = false;
    std::vector<std::pair<std::shared_ptr<ThreadGroup>, int>> parts;  // made by split, and the rank in them
  };
  struct Sum {
    std::uint64_t sequence = 0;  // the sum this slot serves now
    std::size_t arrived = 0;
    bool adding = false;
    std::vector<Storage*> parts;  // by rank
  };
  struct Joining {
    std::shared_ptr<ThreadGroup> group;
    int came = 0;
  };

  Clock::time_point deadline() const noexcept {
    return Clock::now() + std::min<Clock::duration>(timeout_, std::chrono::hours(24 * 365));
  }

  static std::size_t at(int rank) noexcept { return static_cast<std::size_t>(rank); }

  bool landed(const ThreadFlight& flight) const noexcept {
    return !flight.started || sums_[flight.sequence % most_in_flight].sequence > flight.sequence;
  }

  template <class Done>
  void wait(std::unique_lock<std::mutex>& lock, const ThreadFlight& flight, const Done& done) {
    const Sum& sum = sums_[flight.sequence % most_in_flight];
    const auto adding = [&] { return sum.adding; };  // will be done soon, whatever the clock says
    while (!done()) {
      if (!adding()) {
        if (!failure_.empty()) throw CommunicatorError(failure_);
        for (std::size_t r = 0; r < members_.size(); ++r) {
          if (members_[r].left && sum.parts[r] == nullptr) fail("rank " + std::to_string(r) + " has left the group");
        }
        if (Clock::now() >= flight.deadline) fail(late(sum));
      }
      if (adding()) {
        changed_.wait(lock);
      } else {
        changed_.wait_until(lock, flight.deadline);
      }
    }
  }

  [[noreturn]] void fail(std::string why) {
    failure_ = std::move(why);
    changed_.notify_all();
    throw CommunicatorError(failure_);
  }

  std::string late(const Sum& sum) const {
    const auto seconds = std::chrono::duration<double>(timeout_).count();
    std::string ranks;
    for (std::size_t r = 0; r < members_.size(); ++r) {
      if (sum.parts[r] == nullptr) ranks += (ranks.empty() ? "" : ", ") + std::to_string(r);
    }
    return "no answer within " + std::to_string(seconds) + " s from rank " + ranks;
  }

  static bool same_sizes(const Sum& sum) noexcept {
    for (const Storage* part : sum.parts) {
      if (part->size != sum.parts.front()->size) return false;
    }
    return true;
  }

  static std::string sizes(const Sum& sum) {
    std::string text;
    for (const Storage* part : sum.parts) text += (text.empty() ? "" : ", ") + std::to_string(part->size);
    return text + " words by rank";
  }

  static void add_up(const Sum& sum) noexcept {
    const auto words = static_cast<std::size_t>(sum.parts.front()->size);
    for (std::size_t i = 0; i < words; ++i) {
      double total = 0;
      for (const Storage* part : sum.parts) total += part->words.get()[i];
      for (const Storage* part : sum.parts) part->words.get()[i] = total;
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Member> members_;
  std::array<Sum, most_in_flight> sums_;
  FramePool<ThreadFlight> pool_;
  std::map<std::pair<std::uint64_t, int>, Joining> joining_;
  std::string failure_;  // empty while the group is usable
  Clock::duration timeout_ = std::chrono::minutes(10);
};

}  // namespace syncbn::inline v0::detail
