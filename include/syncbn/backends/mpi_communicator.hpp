#pragma once

#include <chrono>
#include <climits>
#include <memory>
#include <string>
#include <utility>

#include <mpi.h>

#include <syncbn/backends/detail/mpi_group.hpp>
#include <syncbn/concepts.hpp>

namespace syncbn::inline v0 {

/// @brief The ranks of an MPI communicator.
///
/// Sums run on a duplicate of it, one for all layers, which lives as long as the user's communicator does. The library
/// neither initialises nor finalises MPI, and needs no thread support beyond MPI_THREAD_SINGLE: one thread at a time may
/// use the communicators of a process. All sums are MPI_Iallreduce and MPI_Test with back-off.
///
/// MPI collectives cannot be cancelled: past its deadline a communicator is unusable for good, its frames stay under way
/// for the life of the process, and MPI_Finalize may block; end the process by MPI_Abort or std::quick_exit then.
class MpiCommunicator {
 public:
  using memory_space = HostSpace;                              ///< host memory
  using queue_type = HostQueue;                                ///< none
  static constexpr ErrorModel errors = ErrorModel::immediate;  ///< exceptions come from the call itself
  /// @brief Words of this rank that are summed over the group.
  using frame = detail::PooledFrame<detail::MpiGroup, detail::MpiFlight>;

  /// @brief The world.
  MpiCommunicator() : MpiCommunicator(MPI_COMM_WORLD) {}
  /// @brief The ranks of @p communicator. @collective{the first time for this MPI communicator: MPI_Comm_dup}
  /// @param communicator  an intra-communicator that outlives the sums.
  /// @throws CommunicatorError if MPI is not initialised, is finalised, or reports an error.
  explicit MpiCommunicator(MPI_Comm communicator) : group_(detail::MpiGroup::of(communicator)) {}

  /// @brief This rank. @return 0 to size() - 1.
  int rank() const noexcept { return group_->rank(); }
  /// @brief Ranks in the group. @return as MPI says.
  int size() const noexcept { return group_->size(); }
  /// @brief Whether sums are still possible. @return false after a deadline, an MPI error, or MPI_Comm_free.
  bool usable() const noexcept { return group_->usable(); }
  /// @brief How long a frame waits for the other ranks. @param timeout  default: 10 minutes.
  void set_timeout(std::chrono::nanoseconds timeout) noexcept { group_->set_timeout(timeout); }

  /// @brief A frame of zeros. @param words  how many. @return the frame; its storage is the group's.
  frame acquire(Index words) { return frame(group_, group_->acquire(words)); }
  /// @brief Offers the words to the sum. @param f  not to be touched before finish(). @throws CommunicatorError
  void start(frame& f, HostQueue&) { group_->start(f.data(), f.size(), f.storage().flight); }
  /// @brief Makes progress. @param f  a started frame. @return true if finish() will not wait.
  bool poll(frame& f) noexcept { return group_->poll(f.storage().flight); }
  /// @brief Waits for the sum. @param f  a started frame; holds the sums afterwards.
  /// @throws CommunicatorError past the deadline; MPI cannot tell which ranks are missing.
  void finish(frame& f, HostQueue&) { group_->finish(f.storage().flight); }

  /// @brief The ranks that gave the same color. @collective{MPI_Allreduce, MPI_Comm_split; these block, without a deadline}
  /// @param color  0 or more. @param key  orders the ranks of the new group. @return the new communicator, with the old
  /// one's timeout. Its last copy frees the MPI communicator, which is collective in MPI's words: let go of it on all ranks.
  /// @throws Error if a color is negative, on every rank. @throws CommunicatorError if MPI reports an error.
  MpiCommunicator split(int color, int key) { return MpiCommunicator(group_->split(color, key)); }

  /// @brief Numbers the layers that are made with this group. @return 0, 1, ... in order of calls, on each rank.
  std::uint64_t next_ordinal() noexcept { return group_->next_ordinal(); }

 private:
  explicit MpiCommunicator(std::shared_ptr<detail::MpiGroup> group) noexcept : group_(std::move(group)) {}

  std::shared_ptr<detail::MpiGroup> group_;
};

}  // namespace syncbn::inline v0
