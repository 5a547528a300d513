#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cuda_runtime_api.h>
#include <mutex>
#include <nccl.h>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include <syncbn/backends/detail/nccl_check.hpp>
#include <syncbn/backends/detail/nccl_flights.hpp>
#include <syncbn/backends/detail/nccl_frames.hpp>
#include <syncbn/backends/detail/nccl_wait.hpp>

// One rank of an NCCL communicator, as all handles share it.

namespace syncbn::inline v0::detail {

class NcclGroup {
 public:
  // `owned`: to be destroyed with the group.
  NcclGroup(ncclComm_t communicator, bool owned, std::chrono::nanoseconds timeout)
      : communicator_(communicator), owned_(owned), timeout_(timeout) {
    nccl_check(ncclCommUserRank(communicator, &rank_), "ncclCommUserRank");
    nccl_check(ncclCommCount(communicator, &size_), "ncclCommCount");
    nccl_check(ncclCommCuDevice(communicator, &device_), "ncclCommCuDevice");
    stopped_ = frames_.pinned_word();
  }
  NcclGroup(const NcclGroup&) = delete;
  NcclGroup& operator=(const NcclGroup&) = delete;
  // Memory is given back once nobody uses it: past the deadline, sums are given up.
  ~NcclGroup() {
    watchdog_ = {};
    NcclWait wait;
    while (usable() && !all_landed()) {
      look();
      wait.a_moment();
    }
    if (owned_ && usable()) static_cast<void>(ncclCommDestroy(communicator_));
  }

  int rank() const noexcept { return rank_; }
  int size() const noexcept { return size_; }
  int device() const noexcept { return device_; }
  bool usable() const noexcept { return usable_; }
  const double* stopped() const noexcept { return stopped_; }
  std::chrono::nanoseconds timeout() const noexcept { return timeout_; }
  void set_timeout(std::chrono::nanoseconds timeout) noexcept { timeout_ = timeout; }
  std::uint64_t next_ordinal() noexcept { return ordinal_++; }

  NcclFrame* acquire(Index words) {
    const std::lock_guard lock(mutex_);
    return &frames_.acquire(words);
  }
  void release(NcclFrame& frame) noexcept {
    const std::lock_guard lock(mutex_);
    frames_.release(frame);
  }
  double* pinned_word() {
    const std::lock_guard lock(mutex_);
    return frames_.pinned_word();
  }

  // Puts the sum into the stream. What is returned goes to put_down() where the sum is there: now, or at the end of a group
  // call. In a graph there is nothing to be followed.
  std::optional<NcclFlight> put(NcclFrame& frame, cudaStream_t stream) {
    throw_if_given_up();
    frame.stream = stream;
    frame.started = true;
    std::optional<NcclFlight> flight;
    if (is_captured(stream)) {
      frame.in_graph = true;
    } else {
      flight = begin_flight(frame.size, stream);
    }
    const std::lock_guard lock(calls_);
    throw_if_given_up();
    const auto size = static_cast<std::size_t>(frame.size);
    settle(ncclAllReduce(frame.words, frame.words, size, ncclFloat64, ncclSum, communicator_, stream), "ncclAllReduce");
    return flight;
  }
  void put_down(NcclFrame& frame, NcclFlight flight) {
    const std::lock_guard lock(mutex_);
    frame.flight = flights_.add(std::move(flight));
  }

  bool has_landed(const NcclFrame& frame) noexcept {
    const std::lock_guard lock(mutex_);
    return flights_.has_landed(frame.flight);
  }

  // Gives the group up if NCCL reports an error, or the device has been in a sum for too long.
  void look() noexcept {
    const std::lock_guard lock(mutex_);
    if (!usable()) return;
    const ncclResult_t state = nccl_state(communicator_);
    if (state != ncclSuccess && state != ncclInProgress) {
      give_up_locked(nccl_failure(state, "ncclCommGetAsyncError"));
    } else if (flights_.waited() > timeout_.load()) {
      give_up_locked(flights_.first() + past_deadline());
    }
  }
  void check(cudaStream_t stream) {
    throw_if_given_up();
    if (is_captured(stream)) return;  // events must not be asked for then
    look();
    throw_if_given_up();
  }

  // Sums in graphs have no events of their own: for them, the clock starts here.
  void synchronize(cudaStream_t stream) {
    throw_if_given_up();
    NcclWait wait;
    for (;;) {
      const cudaError_t state = cudaStreamQuery(stream);
      if (state != cudaErrorNotReady) cuda::check(state, "cudaStreamQuery");
      check(stream);
      if (state == cudaSuccess) return;
      if (wait.so_far() > timeout_.load() && all_landed()) {
        give_up("a sum in a graph" + past_deadline());
        throw_if_given_up();
      }
      wait.a_moment();
    }
  }

  // A thread that looks every `interval`.
  void watch(std::chrono::nanoseconds interval) {
    watchdog_ = {};
    watchdog_ = std::jthread([this, interval](const std::stop_token& stop) {
      static_cast<void>(cudaSetDevice(device_));
      cudaStreamCaptureMode mode =
          cudaStreamCaptureModeRelaxed;  // other threads' captures do not mind this one's calls
      static_cast<void>(cudaThreadExchangeStreamCaptureMode(&mode));
      while (!stop.stop_requested() && usable()) {
        look();
        std::this_thread::sleep_for(interval);
      }
    });
  }

  // Those that gave the same color; not checked.
  ncclComm_t split(int color, int key) {
    ncclComm_t part = nullptr;
    const std::lock_guard lock(calls_);
    throw_if_given_up();
    settle(ncclCommSplit(communicator_, color, key, &part, nullptr), "ncclCommSplit");
    await_initialisation(part, timeout_);
    return part;
  }

  // Calls on a non-blocking communicator end later than they return.
  void settle(ncclResult_t result, const char* call) {
    NcclWait wait;
    while (result == ncclInProgress) {
      if (wait.so_far() > timeout_.load()) give_up(std::string(call) + past_deadline());
      wait.a_moment();
      const std::lock_guard lock(mutex_);
      if (!usable()) throw CommunicatorError(reason_);
      result = nccl_state(communicator_);
    }
    nccl_check(result, call);
  }

  void throw_if_given_up() {
    if (usable()) return;
    const std::lock_guard lock(mutex_);
    throw CommunicatorError(reason_);
  }

 private:
  using Clock = std::chrono::steady_clock;

  NcclFlight begin_flight(Index words, cudaStream_t stream) {
    const std::lock_guard lock(mutex_);
    return flights_.begin(words, stream);
  }
  bool all_landed() noexcept {
    const std::lock_guard lock(mutex_);
    return flights_.all_landed();
  }

  std::string past_deadline() const {
    const double seconds = std::chrono::duration<double>(timeout_.load()).count();
    return " did not end within " + std::to_string(seconds) + " s; NCCL cannot tell which ranks are missing";
  }
  void give_up(const std::string& why) noexcept {
    const std::lock_guard lock(mutex_);
    give_up_locked(why);
  }
  // Kernels are told before sums end as they please.
  void give_up_locked(const std::string& why) noexcept {
    if (!usable_) return;
    reason_ = why + "; the NCCL communicator was aborted";
    std::atomic_ref<double>(*stopped_).store(1);
    usable_ = false;
    // A call that is under way ends by the abort, if not by itself.
    const bool alone = calls_.try_lock_for(std::chrono::seconds(1));
    static_cast<void>(ncclCommAbort(communicator_));
    if (alone) calls_.unlock();
  }

  ncclComm_t communicator_;
  bool owned_;
  int rank_ = 0;
  int size_ = 1;
  int device_ = 0;
  std::atomic<std::chrono::nanoseconds> timeout_;
  std::atomic<bool> usable_{true};
  std::atomic<std::uint64_t> ordinal_{0};

  std::recursive_timed_mutex calls_;  // held in calls of NCCL
  std::mutex mutex_;                  // of what follows
  std::string reason_;
  NcclFrames frames_;
  double* stopped_ = nullptr;
  NcclFlights flights_;
  std::jthread watchdog_;
};

}  // namespace syncbn::inline v0::detail
