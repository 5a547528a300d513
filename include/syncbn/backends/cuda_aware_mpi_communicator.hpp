#pragma once

#include <chrono>
#include <cstdint>
#include <cuda_runtime_api.h>
#include <memory>
#include <utility>

#include <mpi.h>

#include <syncbn/backends/cuda_queue.hpp>
#include <syncbn/backends/cuda_space.hpp>
#include <syncbn/backends/detail/cuda_handles.hpp>
#include <syncbn/backends/detail/cuda_mpi_group.hpp>
#include <syncbn/concepts.hpp>

namespace syncbn::inline v0 {

/// @brief The ranks of an MPI communicator, by an MPI that takes device pointers in MPI_Iallreduce: frames stay in the device's
/// memory, and MPI finds its own way between devices.
///
/// Whether MPI does is for the user to know: one that does not ends the process. MPIX_Query_cuda_support() does not tell: Open
/// MPI's own non-blocking collectives add up on the host. Any MPI can be had by Staged<MpiCommunicator>.
///
/// MPI knows no streams: the host waits for the stream before a sum, and for the sum. So a step cannot be captured in a CUDA
/// graph; faults of the fabric are thrown by the call itself; but what ranks disagree about is judged on the device, and told
/// later (see Exchange and BatchNorm::synchronize()). Layers whose frames differ in size must not meet in one sum: MPI does not
/// promise to find out. Life and death of the group are those of MpiCommunicator.
/// @determinism{that of MPI_Iallreduce}
class CudaAwareMpiCommunicator {
 public:
  using memory_space = CudaSpace;                             ///< a device's memory
  using queue_type = CudaQueue;                               ///< a stream
  static constexpr ErrorModel errors = ErrorModel::deferred;  ///< verdicts stay on the device
  /// @brief Words of this rank that are summed over the group, in the device's memory.
  using frame = detail::PooledFrame<detail::CudaMpiGroup, detail::CudaMpiFlight, detail::DeviceWords>;

  /// @brief A word that kernels write and the host reads.
  class mailbox {
   public:
    /// @brief The word, for both. @return its address; null where none was opened.
    double* word() const noexcept { return word_.data(); }

   private:
    friend class CudaAwareMpiCommunicator;
    detail::PinnedWords word_;
  };

  /// @brief The ranks of @p communicator. @collective{the first time for this MPI communicator: MPI_Comm_dup}
  /// @param communicator  an intra-communicator that outlives the sums.
  /// @throws CommunicatorError if MPI is not initialised, is finalised, or reports an error. @throws CudaError without a device.
  explicit CudaAwareMpiCommunicator(MPI_Comm communicator = MPI_COMM_WORLD)
      : CudaAwareMpiCommunicator(detail::MpiGroup::of(communicator)) {}

  /// @brief This rank. @return 0 to size() - 1.
  int rank() const noexcept { return mpi().rank(); }
  /// @brief Ranks in the group. @return as MPI says.
  int size() const noexcept { return mpi().size(); }
  /// @brief Whether sums are still possible. @return false after a deadline, an MPI error, or MPI_Comm_free.
  bool usable() const noexcept { return mpi().usable(); }
  /// @brief How long a sum waits for the other ranks. @param timeout  default: 10 minutes.
  void set_timeout(std::chrono::nanoseconds timeout) noexcept { mpi().set_timeout(timeout); }

  /// @brief A frame of zeros. @param words  how many. @return the frame; its memory is the group's. @throws CudaError
  frame acquire(Index words) { return frame(group_, group_->acquire(words)); }
  /// @brief Waits for the stream, and offers the words to the sum. @param f  not to be touched before finish().
  /// @param queue  whose kernels have written them. Where one of them failed, or the stream is captured, the others are sent what
  /// is no frame, and check() throws. @throws CommunicatorError
  void start(frame& f, CudaQueue& queue) { group_->start(f.storage(), queue.stream); }
  /// @brief Makes progress. @param f  a started frame. @return true if finish() will not wait.
  bool poll(frame& f) noexcept { return mpi().poll(f.storage().flight); }
  /// @brief Waits for the sum. @param f  a started frame; holds the sums afterwards.
  /// @throws CommunicatorError past the deadline; MPI cannot tell which ranks are missing.
  void finish(frame& f, CudaQueue&) { mpi().finish(f.storage().flight); }

  /// @brief Throws what failed on this rank in the last sum, or if the group is not usable any more.
  /// @throws CommunicatorError @throws CudaError @throws Error if a stream was captured.
  void check(CudaQueue&) {
    group_->tell_failure();
    mpi().check_usable();
  }
  /// @brief As check(), and waits for the stream, which has no sums in it. @param queue  the stream.
  /// @throws CommunicatorError @throws CudaError if the stream's work failed.
  void synchronize(CudaQueue& queue) {
    check(queue);
    cuda::check(cudaStreamSynchronize(queue.stream), "cudaStreamSynchronize");
  }
  /// @brief Always 0: no kernel sees a sum that was given up. @return for kernels.
  const double* stopped() const noexcept { return group_->stopped(); }
  /// @brief A word for reports. @return the mailbox. @throws CudaError
  mailbox open_mailbox() {
    const detail::RelaxedCapture relaxed;
    mailbox result;
    result.word_ = detail::PinnedWords(1);
    return result;
  }

  /// @brief The ranks that gave the same color. @collective{as MpiCommunicator::split} @param color  0 or more.
  /// @param key  orders the ranks of the new group. @return the new communicator, with the old one's timeout.
  /// @throws Error if a color is negative, on every rank. @throws CommunicatorError if MPI reports an error.
  CudaAwareMpiCommunicator split(int color, int key) { return CudaAwareMpiCommunicator(mpi().split(color, key)); }

  /// @brief Numbers the layers that are made with this group. @return 0, 1, ... in order of calls, on each rank.
  std::uint64_t next_ordinal() noexcept { return mpi().next_ordinal(); }

 private:
  explicit CudaAwareMpiCommunicator(std::shared_ptr<detail::MpiGroup> mpi)
      : group_(std::make_shared<detail::CudaMpiGroup>(std::move(mpi))) {}

  detail::MpiGroup& mpi() const noexcept { return group_->mpi(); }

  std::shared_ptr<detail::CudaMpiGroup> group_;
};

}  // namespace syncbn::inline v0
