#pragma once

#include <cstdint>

#include <syncbn/detail/header.hpp>

// The first frame of an exchange.

namespace syncbn::inline v0::detail {

template <class Communicator>
class HeaderFrame {
 public:
  using Frame = typename Communicator::frame;

  bool acquired() const noexcept { return frame_.size() > 0; }
  void acquire(Communicator& communicator) { frame_ = communicator.acquire(header_frame_words); }
  // Lets go of it, whatever is under way.
  void drop() noexcept { frame_ = Frame(); }

  Frame& frame() noexcept { return frame_; }
  double* words() noexcept { return frame_.data(); }
  double* payload() noexcept { return words() + header::payload; }

  void write(double count, bool failed, bool by_blocks, std::uint64_t fingerprint) noexcept {
    write_header(words(), count, failed, by_blocks, fingerprint);
  }

  // Of sums:
  bool is_whole(int ranks) noexcept {
    return frame_is_whole(words()[header::leading], words()[header::trailing], ranks);
  }
  // Whether no rank failed and all do the same.
  bool is_good(int ranks) noexcept { return words()[header::failures] == 0 && digits_agree(words(), ranks); }
  double count() noexcept { return words()[header::count]; }
  // Whether any rank gains from blocks.
  bool by_blocks() noexcept { return words()[header::by_blocks] > 0; }

 private:
  Frame frame_;
};

}  // namespace syncbn::inline v0::detail
