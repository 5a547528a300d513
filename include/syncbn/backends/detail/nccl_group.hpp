#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cuda_runtime_api.h>
#include <memory>
#include <mutex>
#include <nccl.h>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include <syncbn/backends/detail/nccl_calls.hpp>
#include <syncbn/backends/detail/nccl_check.hpp>
#include <syncbn/backends/detail/nccl_flights.hpp>
#include <syncbn/backends/detail/nccl_frames.hpp>
#include <syncbn/backends/detail/nccl_wait.hpp>

// One rank of an NCCL communicator, as all handles share it. Locks: a turn of calls comes before mutex_, never after.

namespace syncbn::inline v0::detail {

class NcclGroup {
 public:
  // `owned`: to be destroyed with the group.
  NcclGroup(ncclComm_t communicator, bool owned, std::chrono::nanoseconds timeout)
      : communicator_(communicator),
        owned_(owned),
        device_(device_of(communicator)),
        timeout_(timeout),
        calls_(std::make_shared<NcclCalls>(communicator)) {
    nccl_check(ncclCommUserRank(communicator, &rank_), "ncclCommUserRank");
    nccl_check(ncclCommCount(communicator, &size_), "ncclCommCount");
    stopped_ = frames_.pinned_word();
  }
  NcclGroup(const NcclGroup&) = delete;
  NcclGroup& operator=(const NcclGroup&) = delete;
  // Memory is given back once nobody uses it: past the deadline, sums are given up.
  ~NcclGroup() {
    watchdog_ = {};
    NcclWait wait;
    while (usable() && !all_landed()) {
      if (wait.so_far() > timeout()) give_up("sums under way" + past_deadline());
      look();
      wait.a_moment();
    }
    if (owned_ && usable()) destroy();
    NcclWait for_abort;
    while (!usable() && !calls_->is_aborted() && for_abort.so_far() < 2 * NcclCalls::patience) for_abort.a_moment();
    if (!usable() && !calls_->is_aborted()) frames_.leak();  // sums may go on: graphs keep NCCL from ending them
  }

  int rank() const noexcept { return rank_; }
  int size() const noexcept { return size_; }
  bool usable() const noexcept { return usable_; }
  const double* stopped() const noexcept { return stopped_; }
  std::chrono::nanoseconds timeout() const noexcept { return timeout_; }
  void set_timeout(std::chrono::nanoseconds timeout) noexcept { timeout_ = timeout; }
  std::uint64_t next_ordinal() noexcept { return ordinal_++; }
  NcclCalls::Turn turn() { return NcclCalls::Turn(calls_); }

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
    const NcclCalls::Turn turn(calls_);
    throw_if_given_up();
    frame.stream = stream;
    frame.started = true;
    std::optional<NcclFlight> flight;
    if (is_captured(stream)) {
      frame.in_graph = true;
      has_graphs_ = true;
    } else {
      const std::lock_guard lock(mutex_);
      flight = flights_.begin(frame.size, stream);
    }
    const auto size = static_cast<std::size_t>(frame.size);
    settle(ncclAllReduce(frame.words, frame.words, size, ncclFloat64, ncclSum, communicator_, stream), "ncclAllReduce");
    return flight;
  }
  void put_down(NcclFrame& frame, NcclFlight flight) {
    const std::lock_guard lock(mutex_);
    frame.flight = flights_.add(std::move(flight));
  }

  bool has_landed(const NcclFrame& frame) noexcept {
    const RelaxedCapture relaxed;
    const std::lock_guard lock(mutex_);
    return flights_.has_landed(frame.flight);
  }

  // Gives the group up if NCCL reports an error, or a sum or a call of NCCL has taken too long.
  void look() noexcept {
    if (!usable()) return;
    const ncclResult_t state = calls_->state();
    if (state != ncclSuccess && state != ncclInProgress) {
      give_up(nccl_failure(state, "ncclCommGetAsyncError"));
    } else if (calls_->waited() > timeout()) {
      give_up("a call of NCCL" + past_deadline());
    } else if (const std::string late = late_sum(); !late.empty()) {
      give_up(late + past_deadline());
    }
  }
  void check(cudaStream_t stream) {
    throw_if_given_up();
    if (is_captured(stream)) return;  // nothing can be asked of the device then
    look();
    throw_if_given_up();
  }

  // Sums in graphs have no events of their own: for them, the clock starts here.
  void synchronize(cudaStream_t stream) {
    NcclWait wait;
    for (;;) {
      check(stream);
      if (is_done(stream)) break;
      if (has_graphs_ && wait.so_far() > timeout() && is_between_sums()) give_up("a sum in a graph" + past_deadline());
      wait.a_moment();
    }
    check(stream);
  }

  // A thread that looks every `interval`.
  void watch(std::chrono::nanoseconds interval) {
    const std::lock_guard lock(watch_mutex_);
    watchdog_ = {};
    watchdog_ = std::jthread([this, interval](const std::stop_token& stop) {
      static_cast<void>(cudaSetDevice(device_));
      std::mutex mutex;
      std::unique_lock asleep(mutex);
      std::condition_variable_any alarm;
      while (!stop.stop_requested() && usable()) {
        look();
        alarm.wait_for(asleep, stop, interval, [] { return false; });
      }
    });
  }

  // Those that gave the same color; not checked.
  ncclComm_t split(int color, int key) {
    const NcclCalls::Turn turn(calls_);
    throw_if_given_up();
    ncclComm_t& part = calls_->new_communicator();
    const ncclResult_t result = ncclCommSplit(communicator_, color, key, &part, nullptr);
    // A non-blocking one has succeeded to begin with, and gives the communicator when it is done.
    settle(result == ncclSuccess ? nccl_state(communicator_) : result, "ncclCommSplit");
    await_initialisation(part, timeout());
    return part;
  }

  // Calls on a non-blocking communicator end later than they return. After an error of NCCL nothing more can be had of it.
  void settle(ncclResult_t result, const char* call) {
    NcclWait wait;
    while (result == ncclInProgress && usable()) {
      if (wait.so_far() > timeout()) give_up(std::string(call) + past_deadline());
      wait.a_moment();
      result = nccl_state(communicator_);
    }
    if (result != ncclSuccess && result != ncclInProgress) give_up(nccl_failure(result, call));
    throw_if_given_up();
  }
  void throw_if_given_up() {
    if (usable()) return;
    const std::lock_guard lock(mutex_);
    throw CommunicatorError(reason_);
  }

 private:
  static int device_of(ncclComm_t communicator) {
    int its = 0;
    int current = 0;
    nccl_check(ncclCommCuDevice(communicator, &its), "ncclCommCuDevice");
    cuda::check(cudaGetDevice(&current), "cudaGetDevice");
    if (its == current) return its;
    throw Error("the NCCL communicator is of device " + std::to_string(its) + ", but device " +
                std::to_string(current) + " is the current one");
  }

  bool all_landed() noexcept {
    const RelaxedCapture relaxed;
    const std::lock_guard lock(mutex_);
    return flights_.all_landed();
  }
  // The first sum, if the device has been in it for too long.
  std::string late_sum() {
    const RelaxedCapture relaxed;
    const std::lock_guard lock(mutex_);
    return flights_.waited() > timeout() ? flights_.first() : std::string();
  }
  bool is_between_sums() noexcept {
    const RelaxedCapture relaxed;
    const std::lock_guard lock(mutex_);
    return flights_.waited() == std::chrono::nanoseconds(0);
  }
  static bool is_done(cudaStream_t stream) {
    const RelaxedCapture relaxed;
    const cudaError_t state = cudaStreamQuery(stream);
    if (state == cudaSuccess) return true;
    if (state != cudaErrorNotReady) cuda::check(state, "cudaStreamQuery");
    static_cast<void>(cudaGetLastError());  // "not ready" is nobody's error
    return false;
  }

  std::string past_deadline() const {
    return " did not end within " + std::to_string(std::chrono::duration<double>(timeout()).count()) +
           " s; NCCL cannot tell which ranks are missing";
  }
  // Kernels are told before sums end as they please.
  void give_up(const std::string& why) noexcept {
    {
      const std::lock_guard lock(mutex_);
      if (!usable_) return;
      reason_ = why + "; the NCCL communicator was aborted";
      std::atomic_ref<double>(*stopped_).store(1);
      usable_ = false;
    }
    calls_->abort(device_);
  }
  // Other ranks may be gone: what NCCL has to tell them may take no longer than the deadline.
  void destroy() noexcept {
    look();
    NcclWait wait;
    const NcclCalls::Turn turn(calls_);
    ncclResult_t result = usable() ? ncclCommFinalize(communicator_) : ncclInternalError;
    while (result == ncclInProgress && wait.so_far() < timeout()) {
      wait.a_moment();
      result = nccl_state(communicator_);
    }
    if (result == ncclSuccess) {
      static_cast<void>(ncclCommDestroy(communicator_));
    } else {
      give_up("it could not be finalized");
    }
  }

  ncclComm_t communicator_;
  bool owned_;
  int rank_ = 0;
  int size_ = 1;
  int device_;
  std::atomic<std::chrono::nanoseconds> timeout_;
  std::atomic<bool> usable_{true};
  std::atomic<bool> has_graphs_{false};
  std::atomic<std::uint64_t> ordinal_{0};
  std::shared_ptr<NcclCalls> calls_;

  std::mutex mutex_;  // of what follows
  std::string reason_;
  NcclFrames frames_;
  double* stopped_ = nullptr;
  NcclFlights flights_;

  std::mutex watch_mutex_;
  std::jthread watchdog_;
};

}  // namespace syncbn::inline v0::detail
