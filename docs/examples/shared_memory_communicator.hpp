#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <sys/mman.h>

#include <syncbn/check.hpp>
#include <syncbn/errors.hpp>

/// @file
/// A communicator from nothing: ranks that share a piece of memory, be they threads or processes made by fork().

namespace example {

// [begin shared]
// What all ranks see. Sum k of a group happens on table k % tables, where each rank has a desk.
struct SharedTables {
  static constexpr std::size_t tables = 128, most_ranks = 16, most_words = 8192;

  struct Desk {
    std::atomic<std::uint64_t> phase{0};  // in round r of its table: 2r, then 2r + 1 with words on it, then 2r + 2
    std::size_t size = 0;
    double words[most_words];
  };
  std::atomic<bool> broken{false};
  Desk desks[tables][most_ranks];
};
// [end shared]

/// @brief Sums frames of doubles over ranks that share memory. No locks: a rank may die at any time.
class SharedMemoryCommunicator {
 public:
  // [begin types]
  using memory_space = syncbn::HostSpace;
  using queue_type = syncbn::HostQueue;
  static constexpr syncbn::ErrorModel errors = syncbn::ErrorModel::immediate;

  /// @brief Up to SharedTables::most_words doubles. Up to SharedTables::tables frames of a rank may be under way.
  class frame {
   public:
    double* data() const noexcept { return words_.data(); }
    syncbn::Index size() const noexcept { return static_cast<syncbn::Index>(words_.size()); }

   private:
    friend class SharedMemoryCommunicator;
    // The desk is left at the end of finish(), or when a frame is thrown away before that.
    struct Leave {
      std::shared_ptr<SharedTables> shared;
      void operator()(SharedTables::Desk* desk) const noexcept { desk->phase.fetch_add(1, std::memory_order_release); }
    };

    mutable std::vector<double> words_;
    std::unique_ptr<SharedTables::Desk, Leave> desk_;
    std::uint64_t number_ = 0;  // of its sum
    std::chrono::steady_clock::time_point deadline_;
  };
  // [end types]

  /// @brief All ranks of a new group, in order; to be called before fork().
  static std::vector<SharedMemoryCommunicator> create(int ranks) {
    static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "atomics must work between processes");
    if (ranks < 1 || ranks > static_cast<int>(SharedTables::most_ranks)) throw syncbn::Error("1 to 16 ranks, please");
    void* memory = mmap(nullptr, sizeof(SharedTables), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw syncbn::CommunicatorError("mmap failed");
    const std::shared_ptr<SharedTables> shared(new (memory) SharedTables,
                                               [](SharedTables* tables) { munmap(tables, sizeof(SharedTables)); });
    std::vector<SharedMemoryCommunicator> result;
    for (int r = 0; r < ranks; ++r) result.push_back(SharedMemoryCommunicator(shared, r, ranks));
    return result;
  }

  // [begin members]
  int rank() const noexcept { return rank_; }
  int size() const noexcept { return size_; }
  bool usable() const noexcept { return !shared_->broken; }

  frame acquire(syncbn::Index words) {
    if (words > static_cast<syncbn::Index>(SharedTables::most_words)) throw syncbn::Error("the frame is too long");
    frame f;
    f.words_.resize(static_cast<std::size_t>(words));
    return f;
  }

  void start(frame& f, syncbn::HostQueue&) {
    if (!usable()) throw syncbn::CommunicatorError("the group is not usable any more");
    f.number_ = own_->sums;
    f.deadline_ = std::chrono::steady_clock::now() + own_->timeout;
    wait(f, 2 * round(f));  // until all have left the table after the sum before
    ++own_->sums;
    SharedTables::Desk& mine = desk(f, rank_);
    mine.size = f.words_.size();
    std::copy(f.words_.begin(), f.words_.end(), mine.words);
    mine.phase.store(2 * round(f) + 1, std::memory_order_release);
    f.desk_ = {&mine, frame::Leave{shared_}};
  }

  bool poll(frame& f) noexcept { return missing(f, 2 * round(f) + 1) < 0 || !usable() || is_late(f); }

  void finish(frame& f, syncbn::HostQueue&) {
    wait(f, 2 * round(f) + 1);  // until all have put their words
    std::fill(f.words_.begin(), f.words_.end(), 0.0);
    for (int r = 0; r < size_; ++r) {  // in the same order on every rank: the same bits
      const SharedTables::Desk& theirs = desk(f, r);
      if (theirs.size != f.words_.size()) fail("frames of different sizes met in one sum");
      for (std::size_t i = 0; i < theirs.size; ++i) f.words_[i] += theirs.words[i];
    }
    f.desk_.reset();
  }
  // [end members]

  /// @brief How long a frame waits for the other ranks.
  void set_timeout(std::chrono::nanoseconds timeout) noexcept { own_->timeout = timeout; }
  /// @brief Numbers the layers made with the group, so that ranks calling different ones are told.
  std::uint64_t next_ordinal() noexcept { return own_->layers++; }

 private:
  // What the copies of one rank's communicator share.
  struct Own {
    std::uint64_t sums = 0;
    std::uint64_t layers = 0;
    std::chrono::nanoseconds timeout = std::chrono::minutes(10);
  };

  SharedMemoryCommunicator(std::shared_ptr<SharedTables> shared, int rank, int size)
      : shared_(std::move(shared)), own_(std::make_shared<Own>()), rank_(rank), size_(size) {}

  static std::uint64_t round(const frame& f) noexcept { return f.number_ / SharedTables::tables; }
  SharedTables::Desk& desk(const frame& f, int rank) const noexcept {
    return shared_->desks[f.number_ % SharedTables::tables][rank];
  }

  // [begin waiting]
  // The first rank whose desk has not come to a phase, or -1.
  int missing(const frame& f, std::uint64_t phase) const noexcept {
    for (int r = 0; r < size_; ++r) {
      if (desk(f, r).phase.load(std::memory_order_acquire) < phase) return r;
    }
    return -1;
  }

  void wait(const frame& f, std::uint64_t phase) {
    for (int r = missing(f, phase); r >= 0; r = missing(f, phase)) {
      if (!usable()) throw syncbn::CommunicatorError("another rank has given up");
      if (is_late(f)) fail("no answer in time from rank " + std::to_string(r));
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }

  static bool is_late(const frame& f) noexcept { return std::chrono::steady_clock::now() > f.deadline_; }

  [[noreturn]] void fail(const std::string& why) {
    shared_->broken = true;  // whoever waits, or comes later, throws at once
    throw syncbn::CommunicatorError(why);
  }
  // [end waiting]

  std::shared_ptr<SharedTables> shared_;
  std::shared_ptr<Own> own_;
  int rank_;
  int size_;
};

static_assert(syncbn::check_communicator<SharedMemoryCommunicator>());

}  // namespace example
