#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>
#include <utility>

#include <syncbn/concepts.hpp>

namespace bench {

/// @brief Any communicator on a slower fabric: a sum is there no sooner than a latency after this rank has started it.
/// Latencies of frames that are under way together run together. Copies share the latency.
template <class Communicator>
class DelayedCommunicator {
  using Clock = std::chrono::steady_clock;

 public:
  using memory_space = typename Communicator::memory_space;
  using queue_type = typename Communicator::queue_type;
  static constexpr syncbn::ErrorModel errors = Communicator::errors;

  class frame {
   public:
    frame() = default;
    double* data() const noexcept { return inner_.data(); }
    syncbn::Index size() const noexcept { return inner_.size(); }

   private:
    friend class DelayedCommunicator;
    explicit frame(typename Communicator::frame inner) : inner_(std::move(inner)) {}

    typename Communicator::frame inner_;
    Clock::time_point arrives_{};
  };

  explicit DelayedCommunicator(Communicator communicator) : communicator_(std::move(communicator)) {}

  void set_latency(std::chrono::microseconds latency) noexcept { *latency_ = latency; }

  int rank() const noexcept { return communicator_.rank(); }
  int size() const noexcept { return communicator_.size(); }
  bool usable() const noexcept { return communicator_.usable(); }
  frame acquire(syncbn::Index words) { return frame(communicator_.acquire(words)); }
  void start(frame& f, queue_type& queue) {
    f.arrives_ = Clock::now() + *latency_;
    communicator_.start(f.inner_, queue);
  }
  bool poll(frame& f) noexcept {
    return communicator_.poll(f.inner_) && (latency_->count() == 0 || Clock::now() >= f.arrives_);
  }
  void finish(frame& f, queue_type& queue) {
    communicator_.finish(f.inner_, queue);
    while (latency_->count() > 0 && Clock::now() < f.arrives_) std::this_thread::yield();
  }
  std::uint64_t next_ordinal() noexcept { return communicator_.next_ordinal(); }

 private:
  Communicator communicator_;
  std::shared_ptr<std::chrono::microseconds> latency_ = std::make_shared<std::chrono::microseconds>(0);
};

}  // namespace bench
