#pragma once

#include <vector>

#include <syncbn/detail/header.hpp>
#include <syncbn/detail/plan.hpp>

// The frames of an exchange's blocks, each [1, status | payload | 1]: how many ranks sent it, how many had failed, the
// words, how many ranks sent it to its end.

namespace syncbn::inline v0::detail {

template <class Communicator>
class BlockFrames {
 public:
  using Frame = typename Communicator::frame;

  const Plan& plan() const noexcept { return now_.plan; }
  bool fit(const Plan& plan) const noexcept { return now_.plan == plan && !now_.frames.empty(); }

  // Makes them fit.
  void reserve(Communicator& communicator, const Plan& plan) {
    if (next_.plan == plan && !next_.frames.empty()) std::swap(now_, next_);
    next_.frames.clear();
    if (!fit(plan)) now_ = acquire(communicator, plan);
  }
  // Frames for the exchange after the one whose sums are still in use, so that reserve() need not allocate then. What
  // fails here is tried again there.
  void prepare(Communicator& communicator, const Plan& plan) noexcept {
    if (fit(plan) || next_.plan == plan) return;
    try {
      next_ = acquire(communicator, plan);
    } catch (...) {
      next_ = {};
    }
  }
  // Lets go of them, whatever is under way.
  void drop() noexcept {
    now_ = {};
    next_ = {};
  }

  Frame& operator[](Index block) noexcept { return now_.frames[static_cast<std::size_t>(block)]; }

  // pack(words) writes the payload, and alone touches it: a device's kernels may still be reading the sums of before, and
  // those of pack come after them. It stays as it is where this rank has failed, which condemns the block.
  template <class Pack>
  void write(Index block, bool failed, const Pack& pack) {
    double* words = (*this)[block].data();
    const Index payload = now_.plan.words_of(block);
    words[leading] = 1;
    words[status] = failed ? 1 : 0;
    if (!failed) pack(words + first);
    words[first + payload] = 1;
  }

  // Of sums:
  bool is_whole(Index block, int ranks) noexcept {
    const double* words = (*this)[block].data();
    return frame_is_whole(words[leading], words[first + now_.plan.words_of(block)], ranks);
  }
  bool has_failures(Index block) noexcept { return (*this)[block].data()[status] != 0; }
  const double* payload(Index block) noexcept { return (*this)[block].data() + first; }

 private:
  static constexpr Index leading = 0;
  static constexpr Index status = 1;
  static constexpr Index first = 2;
  static constexpr Index around = 3;  // words that are not payload

  struct Set {
    Plan plan;
    std::vector<Frame> frames;
  };
  static Set acquire(Communicator& communicator, const Plan& plan) {
    Set result{plan, {}};
    for (Index k = 0; k < plan.blocks(); ++k) result.frames.push_back(communicator.acquire(plan.words_of(k) + around));
    return result;
  }

  Set now_;
  Set next_;
};

}  // namespace syncbn::inline v0::detail
