#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <utility>

#include <syncbn/syncbn.hpp>

/// @file
/// A communicator of one's own: any other one, with a stop watch.

namespace digits {

/// @brief Seconds on a clock that never goes back.
inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// @brief Models `syncbn::communicator` by passing everything on, and adds up the time that passes in sums.
///
/// Nothing is derived from and nothing registered: the members are what the concept asks for.
template <class Communicator>
class TimedCommunicator {
 public:
  using memory_space = typename Communicator::memory_space;
  using queue_type = typename Communicator::queue_type;
  using frame = typename Communicator::frame;
  static constexpr syncbn::ErrorModel errors = Communicator::errors;

  /// @param communicator  the one that does the work.
  explicit TimedCommunicator(Communicator communicator) : communicator_(std::move(communicator)) {}

  [[nodiscard]] int rank() const noexcept { return communicator_.rank(); }
  [[nodiscard]] int size() const noexcept { return communicator_.size(); }
  [[nodiscard]] bool usable() const noexcept { return communicator_.usable(); }
  [[nodiscard]] frame acquire(syncbn::Index words) { return communicator_.acquire(words); }

  void start(frame& sums, queue_type& queue) {
    const Stopwatch stopwatch(*seconds_);
    communicator_.start(sums, queue);
  }
  [[nodiscard]] bool poll(frame& sums) noexcept {
    const Stopwatch stopwatch(*seconds_);
    return communicator_.poll(sums);
  }
  void finish(frame& sums, queue_type& queue) {
    const Stopwatch stopwatch(*seconds_);
    communicator_.finish(sums, queue);
  }

  // Not asked for; where the group numbers its layers, errors can name them.
  [[nodiscard]] std::uint64_t next_ordinal()
    requires requires(Communicator& c) { c.next_ordinal(); }
  {
    return communicator_.next_ordinal();
  }

  /// @brief Time spent in sums by this rank, through all copies of this communicator.
  [[nodiscard]] double seconds() const { return *seconds_; }

 private:
  // Adds the length of its life to a total.
  class Stopwatch {
   public:
    explicit Stopwatch(double& total) : total_(total) {}
    ~Stopwatch() { total_ += now() - start_; }
    Stopwatch(const Stopwatch&) = delete;
    Stopwatch& operator=(const Stopwatch&) = delete;

   private:
    double& total_;
    double start_ = now();
  };

  Communicator communicator_;
  std::shared_ptr<double> seconds_ = std::make_shared<double>(0.0);  // copies are handles to the same group
};

// If a member were missing, the compiler would say so here, in plain English.
static_assert(syncbn::check_communicator<TimedCommunicator<syncbn::SingleProcessCommunicator>>());

}  // namespace digits
