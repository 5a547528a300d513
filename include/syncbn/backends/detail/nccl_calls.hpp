#pragma once

#include <atomic>
#include <chrono>
#include <cuda_runtime_api.h>
#include <memory>
#include <mutex>
#include <nccl.h>
#include <thread>
#include <utility>
#include <vector>

// Calls of NCCL on one communicator: one at a time, but for the abort, which has to be possible while another one hangs.

namespace syncbn::inline v0::detail {

class NcclCalls : public std::enable_shared_from_this<NcclCalls> {
 public:
  using Clock = std::chrono::steady_clock;

  explicit NcclCalls(ncclComm_t communicator) : communicator_(communicator) {}

  // The right to call; the clock of the deadline runs meanwhile. One thread may have it several times.
  class Turn {
   public:
    explicit Turn(std::shared_ptr<NcclCalls> calls) : calls_(std::move(calls)), lock_(calls_->mutex_) {
      if (calls_->depth_++ == 0) calls_->since_ = Clock::now().time_since_epoch().count();
    }
    Turn(Turn&& other) noexcept = default;
    Turn& operator=(Turn&&) = delete;
    ~Turn() {
      if (calls_ != nullptr && --calls_->depth_ == 0) calls_->since_ = 0;
    }

   private:
    std::shared_ptr<NcclCalls> calls_;  // outlives the lock
    std::unique_lock<std::recursive_timed_mutex> lock_;
  };

  // How long the call under way has taken.
  std::chrono::nanoseconds waited() const noexcept {
    const Clock::rep since = since_;
    if (since == 0) return std::chrono::nanoseconds(0);
    return Clock::now() - Clock::time_point(Clock::duration(since));
  }

  // What NCCL reports; nothing while another thread is in a call, which sees it itself. Asking is a call, too.
  ncclResult_t state() noexcept {
    if (!mutex_.try_lock()) return ncclSuccess;
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(communicator_, &state);
    mutex_.unlock();
    return asked == ncclSuccess ? state : asked;
  }

  // From a thread of its own: NCCL waits there for graphs that have sums of the communicator. A call under way is given
  // time to end; one that hangs is ended by the abort.
  void abort(int device) noexcept {
    try {
      std::thread([self = shared_from_this(), device] {
        static_cast<void>(cudaSetDevice(device));
        const bool alone = self->mutex_.try_lock_for(patience);
        static_cast<void>(ncclCommAbort(self->communicator_));
        if (alone) self->mutex_.unlock();
        self->aborted_ = true;
      }).detach();
    } catch (const std::exception&) {  // no thread: sums that hang go on hanging
    }
  }
  bool is_aborted() const noexcept { return aborted_; }

  // A place to which NCCL may write for as long as anybody uses the communicator.
  ncclComm_t& new_communicator() {
    const Turn turn(shared_from_this());
    parts_.push_back(std::make_unique<ncclComm_t>(nullptr));
    return *parts_.back();
  }

  static constexpr std::chrono::seconds patience{5};

 private:
  ncclComm_t communicator_;
  std::recursive_timed_mutex mutex_;
  int depth_ = 0;  // of turns
  std::atomic<Clock::rep> since_{0};
  std::atomic<bool> aborted_{false};
  std::vector<std::unique_ptr<ncclComm_t>> parts_;
};

}  // namespace syncbn::inline v0::detail
