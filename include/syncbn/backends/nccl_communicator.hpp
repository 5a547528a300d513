#pragma once

#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cuda_runtime_api.h>
#include <memory>
#include <nccl.h>
#include <string>
#include <utility>
#include <vector>

#include <syncbn/all_reduce.hpp>
#include <syncbn/backends/cuda_queue.hpp>
#include <syncbn/backends/cuda_space.hpp>
#include <syncbn/backends/detail/nccl_group.hpp>
#include <syncbn/backends/detail/nccl_launch.hpp>
#include <syncbn/concepts.hpp>

namespace syncbn::inline v0 {

/// @brief The ranks of an NCCL communicator, one device each. Sums are put into the stream and never waited for, so that a step
/// can be captured in a CUDA graph; errors are deferred (see Exchange and BatchNorm::synchronize()).
///
/// The deadline is of one sum, from when the device was seen in it: by check(), synchronize(), the next call of a layer, or
/// the thread that watch() starts; and of one call of NCCL. Past it, or after an error that NCCL reports, the NCCL communicator
/// is aborted, nothing that was under way is used, and every call throws CommunicatorError: a communicator that was wrapped must
/// not be destroyed or used by its owner then. Graphs with its sums are destroyed before the last handle: docs/cuda.md.
/// @determinism{that of ncclAllReduce: the same bits on all ranks, and again for the same ranks and devices}
class NcclCommunicator {
 public:
  using memory_space = CudaSpace;                             ///< a device's memory
  using queue_type = CudaQueue;                               ///< a stream
  static constexpr ErrorModel errors = ErrorModel::deferred;  ///< nothing is waited for

  /// @brief Words of this rank that are summed over the group, in the device's memory.
  class frame {
   public:
    frame() noexcept = default;
    /// @brief Takes the words. @param other  empty afterwards.
    frame(frame&& other) noexcept { swap(other); }
    /// @brief Takes the words. @param other  has those of this one afterwards. @return *this.
    frame& operator=(frame&& other) noexcept {
      swap(other);
      return *this;
    }
    ~frame() {
      if (words_ != nullptr) group_->release(*words_);
    }
    /// @brief The words. @return a device pointer.
    double* data() const noexcept { return words_ == nullptr ? nullptr : words_->words; }
    /// @brief Their number. @return as acquired.
    Index size() const noexcept { return words_ == nullptr ? 0 : words_->size; }

   private:
    friend class NcclCommunicator;
    void swap(frame& other) noexcept {
      std::swap(group_, other.group_);
      std::swap(words_, other.words_);
    }
    std::shared_ptr<detail::NcclGroup> group_;
    detail::NcclFrame* words_ = nullptr;
  };

  /// @brief A word that kernels write and the host reads.
  class mailbox {
   public:
    /// @brief The word, for both. @return its address; null where none was opened.
    double* word() const noexcept { return word_; }

   private:
    friend class NcclCommunicator;
    std::shared_ptr<detail::NcclGroup> group_;
    double* word_ = nullptr;
  };

  /// @brief Wraps a communicator of the user's. @param communicator  outlives the sums; its owner destroys it, unless it was
  /// aborted (see usable()); may be non-blocking, and is initialised. @throws CommunicatorError if it is none; Error if it is of another device than the
  /// current one.
  explicit NcclCommunicator(ncclComm_t communicator)
      : NcclCommunicator(std::make_shared<detail::NcclGroup>(communicator, false, default_timeout)) {}

  /// @brief A communicator of the library's own, on the current device. @collective{ncclCommInitRankConfig}
  /// @param id  the same on all ranks, from ncclGetUniqueId() on one of them. @param rank  0 to size - 1.
  /// @param size  ranks. @param timeout  for this call and for sums. @return the communicator; destroyed with its last copy.
  /// @throws CommunicatorError if NCCL fails, or ranks are missing past the deadline.
  static NcclCommunicator create(const ncclUniqueId& id, int rank, int size,
                                 std::chrono::nanoseconds timeout = default_timeout) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;  // only such a one can be given up in time
    ncclComm_t communicator = nullptr;
    const ncclResult_t result = ncclCommInitRankConfig(&communicator, size, id, rank, &config);
    if (result != ncclInProgress) detail::nccl_check(result, "ncclCommInitRankConfig");
    detail::await_initialisation(communicator, timeout);
    return owner_of(communicator, timeout);
  }
  /// @brief The same ranks as another communicator's, which spreads the unique id.
  /// @collective{two sums over the other communicator; ncclCommInitRankConfig} @param spread  of host memory: MPI, threads.
  /// @param timeout  for this call and for sums. @return the communicator, on the current device.
  /// @throws CommunicatorError on all ranks if one cannot begin: has no device, or gets no id.
  template <communicator Spread>
    requires std::same_as<typename Spread::memory_space, HostSpace>
  static NcclCommunicator create(Spread& spread, std::chrono::nanoseconds timeout = default_timeout) {
    return create(detail::spread_unique_id(spread), spread.rank(), spread.size(), timeout);
  }

  /// @brief This rank. @return 0 to size() - 1.
  int rank() const noexcept { return group_->rank(); }
  /// @brief Ranks in the group. @return as NCCL says.
  int size() const noexcept { return group_->size(); }
  /// @brief Whether sums are still possible. @return false once the NCCL communicator was aborted.
  bool usable() const noexcept { return group_->usable(); }
  /// @brief How long a device may be in a sum, for this rank. @param timeout  default: 10 minutes.
  void set_timeout(std::chrono::nanoseconds timeout) noexcept { group_->set_timeout(timeout); }
  /// @brief Starts a thread that looks for errors and deadlines, until the last handle is gone.
  /// @param interval  between two looks. Another call replaces the thread.
  void watch(std::chrono::nanoseconds interval = std::chrono::milliseconds(100)) { group_->watch(interval); }

  /// @brief A frame of zeros, for use after this call on any stream. @param words  how many. @return the frame; its memory is
  /// the group's. @throws CudaError
  frame acquire(Index words) {
    frame result;
    result.words_ = group_->acquire(words);
    result.group_ = group_;
    return result;
  }
  /// @brief Puts the sum into the stream. @param f  read and written there. @param queue  the stream, of this device.
  /// @throws CommunicatorError if the group was given up, or NCCL refuses. @throws CudaError
  void start(frame& f, CudaQueue& queue) { detail::NcclLaunch::start(group_, *f.words_, queue.stream); }
  /// @brief Whether the device has done the sum. @param f  a started frame. @return true once it has.
  bool poll(frame& f) noexcept { return group_->has_landed(*f.words_); }
  /// @brief Nothing: what is put into the same stream later sees the sums.
  void finish(frame&, CudaQueue&) noexcept {}

  /// @brief Throws if the group was given up, and gives it up where it has to be; does not wait.
  /// @param queue  while it is captured nothing can be asked of the device. @throws CommunicatorError
  void check(CudaQueue& queue) { group_->check(queue.stream); }
  /// @brief Waits for the stream as long as sums in it keep their deadlines. @param queue  the stream.
  /// @throws CommunicatorError past a deadline. @throws CudaError if the stream's work failed.
  void synchronize(CudaQueue& queue) { group_->synchronize(queue.stream); }
  /// @brief Not 0 from before the moment when sums are aborted. @return for kernels.
  const double* stopped() const noexcept { return group_->stopped(); }
  /// @brief A word for reports. @return the mailbox. @throws CudaError
  mailbox open_mailbox() {
    mailbox result;
    result.word_ = group_->pinned_word();
    result.group_ = group_;
    return result;
  }

  /// @brief The ranks that gave the same color. @collective{one sum, ncclCommSplit; waits for the other ranks}
  /// @param color  0 or more. @param key  orders the ranks of the new group; equal keys: by old rank.
  /// @return the new communicator, with the old one's timeout. @throws Error if a color is negative, on every rank.
  NcclCommunicator split(int color, int key) {
    detail::check_colors(*this, color);
    return owner_of(group_->split(color, key), group_->timeout());
  }

  /// @brief Numbers the layers that are made with this group. @return 0, 1, ... in order of calls, on each rank.
  std::uint64_t next_ordinal() noexcept { return group_->next_ordinal(); }

 private:
  static constexpr std::chrono::minutes default_timeout{10};

  static NcclCommunicator owner_of(ncclComm_t communicator, std::chrono::nanoseconds timeout) {
    try {
      return NcclCommunicator(std::make_shared<detail::NcclGroup>(communicator, true, timeout));
    } catch (...) {
      static_cast<void>(ncclCommAbort(communicator));
      throw;
    }
  }

  explicit NcclCommunicator(std::shared_ptr<detail::NcclGroup> group) noexcept : group_(std::move(group)) {}

  std::shared_ptr<detail::NcclGroup> group_;
};

/// @brief Sums that `f()` starts go together, as one group call of NCCL: frames of one communicator in one launch, or frames of
/// several communicators of one thread, which would wait for each other otherwise. Their streams do them where the call ends,
/// so that f() may start frames and nothing else: no layer's passes, no kernels that need the sums.
/// @param f  called without arguments. @throws what f throws; CommunicatorError if NCCL refuses.
template <class F>
void start_together(const F& f) {
  detail::NcclLaunch launch;
  f();
  launch.end();
}

}  // namespace syncbn::inline v0
