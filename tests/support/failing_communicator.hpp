#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <thread>
#include <utility>

#include <syncbn/concepts.hpp>
#include <syncbn/errors.hpp>

namespace syncbn_test {

/// @brief Leaves a rank's body as a process that dies does: no frame of it arrives any more, and nobody is told.
struct RankDied : std::runtime_error {
  RankDied() : std::runtime_error("this rank died on cue") {}
};

/// @brief What is to go wrong on one rank; calls of start() are counted from 1.
struct Fault {
  enum class Kind {
    none,
    throws_at_start,   ///< the fabric reports an error: CommunicatorError, nothing is sent
    throws_at_finish,  ///< likewise, when the sum of that frame is waited for
    dies               ///< RankDied, and nothing is sent from then on
  };
  Kind kind = Kind::none;
  std::size_t at = 0;
  std::chrono::microseconds delay{0};  ///< before each start
  std::function<void()> before_start;  ///< called before each start; may throw nothing
};

/// @brief Any communicator, with a fault. Copies share it, as they share the rank.
template <class Communicator>
class FailingCommunicator {
  struct State {
    Fault fault;
    std::size_t started = 0;
    bool dead = false;
  };

 public:
  using memory_space = typename Communicator::memory_space;
  using queue_type = typename Communicator::queue_type;
  using frame = typename Communicator::frame;
  static constexpr syncbn::ErrorModel errors = Communicator::errors;

  FailingCommunicator(Communicator communicator, Fault fault)
      : communicator_(std::move(communicator)), state_(std::make_shared<State>()) {
    set_fault(std::move(fault));
  }

  /// @brief Another fault; counting starts afresh.
  void set_fault(Fault fault) { *state_ = State{std::move(fault)}; }
  std::size_t started() const noexcept { return state_->started; }

  int rank() const noexcept { return communicator_.rank(); }
  int size() const noexcept { return communicator_.size(); }
  bool usable() const noexcept { return communicator_.usable(); }
  frame acquire(syncbn::Index words) { return communicator_.acquire(words); }
  void start(frame& f, queue_type& queue) {
    const Fault& fault = state_->fault;
    ++state_->started;
    if (fault.delay.count() > 0) std::this_thread::sleep_for(fault.delay);
    if (fault.before_start) fault.before_start();
    if (due(Fault::Kind::dies)) state_->dead = true;
    if (state_->dead) throw RankDied();
    if (due(Fault::Kind::throws_at_start)) throw syncbn::CommunicatorError("start failed on cue");
    communicator_.start(f, queue);
  }
  bool poll(frame& f) noexcept { return communicator_.poll(f); }
  void finish(frame& f, queue_type& queue) {
    if (due(Fault::Kind::throws_at_finish)) throw syncbn::CommunicatorError("finish failed on cue");
    communicator_.finish(f, queue);
  }
  std::uint64_t next_ordinal() noexcept
    requires requires(Communicator& c) { c.next_ordinal(); }
  {
    return communicator_.next_ordinal();
  }

 private:
  bool due(Fault::Kind kind) const { return state_->fault.kind == kind && state_->started == state_->fault.at; }

  Communicator communicator_;
  std::shared_ptr<State> state_;
};

}  // namespace syncbn_test
