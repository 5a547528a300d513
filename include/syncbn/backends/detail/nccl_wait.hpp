#pragma once

#include <chrono>
#include <nccl.h>
#include <string>
#include <thread>

#include <syncbn/backends/detail/nccl_check.hpp>

namespace syncbn::inline v0::detail {

// Waiting for what can only be asked: briefly first, then for longer.
class NcclWait {
 public:
  std::chrono::nanoseconds so_far() const noexcept { return std::chrono::steady_clock::now() - begin_; }
  void a_moment() {
    const std::chrono::nanoseconds waited = so_far();
    if (waited < std::chrono::microseconds(100)) return std::this_thread::yield();
    std::this_thread::sleep_for(waited < std::chrono::milliseconds(10) ? std::chrono::microseconds(20)
                                                                       : std::chrono::microseconds(500));
  }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

// What NCCL says of a communicator.
inline ncclResult_t nccl_state(ncclComm_t communicator) noexcept {
  ncclResult_t state = ncclSuccess;
  const ncclResult_t asked = ncclCommGetAsyncError(communicator, &state);
  return asked == ncclSuccess ? state : asked;
}

// Until a communicator can be used. One that cannot be is aborted.
inline void await_initialisation(ncclComm_t communicator, std::chrono::nanoseconds timeout) {
  NcclWait wait;
  for (;;) {
    const ncclResult_t state = nccl_state(communicator);
    if (state == ncclSuccess) return;
    const bool late = state == ncclInProgress && wait.so_far() > timeout;
    if (state != ncclInProgress || late) {
      const std::string why = late ? "not all ranks came within the deadline" : nccl_failure(state, "it failed");
      static_cast<void>(ncclCommAbort(communicator));
      throw CommunicatorError("initialisation of an NCCL communicator: " + why);
    }
    wait.a_moment();
  }
}

}  // namespace syncbn::inline v0::detail
