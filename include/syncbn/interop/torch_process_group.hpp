#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

// clang-format off: clang reads LibTorch 1.13 only if this comes first
#include <ATen/core/ivalue.h>
#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
// clang-format on

#include <syncbn/concepts.hpp>
#include <syncbn/errors.hpp>

namespace syncbn::inline v0::torch {

/// @brief The ranks of PyTorch's process group, by its all-reduce of doubles in host memory (gloo, MPI).
///
/// Give it a group of its own: collectives of a group have to come in the same order on all ranks, and those of others (of
/// DistributedDataParallel's buckets) come when they like. Copies are handles to the same rank of the same group. A sum whose
/// deadline has passed stays under way in the group, which may wait for it, up to its own timeout, when it goes.
/// @determinism{as the group's: gloo adds each element on one rank in one order, and tells the others}
/// @tparam ProcessGroup  c10d's, or one of its backends, which are no process groups of themselves from PyTorch 2.0 on.
template <class ProcessGroup = c10d::ProcessGroup>
class ProcessGroupCommunicator {
 public:
  using Group = c10::intrusive_ptr<ProcessGroup>;              ///< PyTorch's handle
  using memory_space = HostSpace;                              ///< host memory
  using queue_type = HostQueue;                                ///< none
  static constexpr ErrorModel errors = ErrorModel::immediate;  ///< exceptions come from the call itself

  /// @brief Words of this rank that are summed over the group.
  class frame {
   public:
    frame() = default;
    /// @brief The words. @return the first.
    double* data() const noexcept { return words_.empty() ? nullptr : static_cast<double*>(words_[0].data_ptr()); }
    /// @brief Their number. @return as acquired.
    Index size() const noexcept { return words_.empty() ? 0 : words_[0].numel(); }

   private:
    friend class ProcessGroupCommunicator;
    // A thrown away frame's memory is the tensor's, which the work keeps.
    std::vector<at::Tensor> words_;
    c10::intrusive_ptr<c10d::Work> work_;
  };

  /// @brief Uses a group. @param group  not null. @param timeout  how long a sum may take.
  /// @throws Error if there is no group, or no time.
  explicit ProcessGroupCommunicator(Group group, std::chrono::milliseconds timeout = std::chrono::minutes(10))
      : state_(std::make_shared<State>(State{std::move(group), timeout})) {
    if (!state_->group) throw Error("a process group that is null");
    if (timeout.count() <= 0) throw Error("a timeout that is not more than 0, which c10d takes for none");
  }

  /// @brief This rank. @return 0 to size() - 1.
  int rank() const noexcept { return state_->group->getRank(); }
  /// @brief Ranks in the group. @return 1 or more.
  int size() const noexcept { return state_->group->getSize(); }
  /// @brief Whether sums are still possible. @return false after an error of the group, or a deadline.
  bool usable() const noexcept { return state_->usable; }
  /// @brief How long a sum may take, for all handles of this rank. @param timeout  default: 10 minutes; less than 1 ms is that.
  void set_timeout(std::chrono::milliseconds timeout) noexcept {
    state_->timeout = std::max(timeout, std::chrono::milliseconds(1));
  }
  /// @brief Numbers the layers that are made with this group. @return 0, 1, ... in order of calls, on each rank.
  std::uint64_t next_ordinal() noexcept { return state_->layers++; }

  /// @brief A frame. @param words  how many. @return the frame.
  frame acquire(Index words) const {
    frame f;
    f.words_.push_back(at::zeros({words}, at::kDouble));
    return f;
  }
  /// @brief Offers the words to the sum. @param f  not to be touched before finish(). @throws CommunicatorError if the group
  /// cannot.
  void start(frame& f, HostQueue&) {
    if (!usable()) throw CommunicatorError("the process group is not usable any more");
    at_group([&] { f.work_ = state_->group->allreduce(f.words_); });
  }
  /// @brief Whether the sum is there. @param f  a started frame. @return true if finish() will not wait.
  bool poll(frame& f) noexcept {
    try {
      return !usable() || f.work_->isCompleted();
    } catch (...) {
      return true;  // finish() will say why
    }
  }
  /// @brief Waits for the sum. @param f  a started frame; holds the sums afterwards.
  /// @throws CommunicatorError past the deadline, or if the group failed.
  void finish(frame& f, HostQueue&) {
    if (!usable()) throw CommunicatorError("the process group is not usable any more");
    at_group([&] {
      if (!f.work_->wait(state_->timeout)) throw CommunicatorError("no sum before the deadline");
    });
    f.work_.reset();
  }

 private:
  struct State {
    Group group;
    std::chrono::milliseconds timeout;
    bool usable = true;
    std::uint64_t layers = 0;
  };

  template <class F>
  void at_group(const F& f) {
    try {
      f();
    } catch (const std::exception& e) {
      state_->usable = false;
      throw CommunicatorError(std::string("process group: ") + e.what());
    }
  }

  std::shared_ptr<State> state_;
};

}  // namespace syncbn::inline v0::torch
