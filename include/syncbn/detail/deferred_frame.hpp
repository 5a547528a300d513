#pragma once

#include <cstdint>

#include <syncbn/detail/agreement.hpp>
#include <syncbn/detail/header.hpp>

// What travels where the host waits for nothing, and how a bad end is told later. The first frame has the words of
// header.hpp, a bit for each rank that failed, the payload and a trailing 1; the second one a leading 2, the payload and a
// trailing 2. Both are whole multiples of 4 KiB: layers of different but few channels that meet in one sum then disagree,
// where frames of different sizes would hang.

namespace syncbn::inline v0::detail {

class DeferredFrame {
 public:
  DeferredFrame() = default;
  DeferredFrame(Index payload_words, int ranks) noexcept
      : first_payload_(bits + (ranks + ranks_per_word - 1) / ranks_per_word),
        words_(round_up(first_payload_ + payload_words + 1)),
        second_words_(round_up(second_payload + payload_words + 1)) {}

  static constexpr Index bits = header::payload;  // of ranks that failed
  static constexpr Index second_payload = 1;

  Index words() const noexcept { return words_; }
  Index second_words() const noexcept { return second_words_; }
  SYNCBN_HOST_DEVICE Index payload() const noexcept { return first_payload_; }
  SYNCBN_HOST_DEVICE Index trailing() const noexcept { return words_ - 1; }
  SYNCBN_HOST_DEVICE Index second_trailing() const noexcept { return second_words_ - 1; }

  friend bool operator==(const DeferredFrame&, const DeferredFrame&) = default;

 private:
  static Index round_up(Index words) noexcept {
    return (words + header_frame_words - 1) / header_frame_words * header_frame_words;
  }

  Index first_payload_ = 0;
  Index words_ = 0;
  Index second_words_ = 0;
};

// How an exchange ended.
enum class Ending : std::uint8_t {
  good,
  failure,       // a rank failed
  disagreement,  // ranks called different things
  single_value,  // one value per channel on all ranks, where that is an error
  mixed_up,      // sums of something else
  given_up       // the group was: it tells that itself
};

// What the host learns, in one word, so that it learns all or nothing: 3 bits of ending, 15 of rank, the number of the
// exchange. 0 says nothing.
struct Report {
  Ending ending = Ending::good;
  int rank = 0;  // the lowest that failed
  std::int64_t sequence = 0;

  SYNCBN_HOST_DEVICE double word() const noexcept {
    return static_cast<double>(static_cast<std::int64_t>(ending) + 8 * (rank + (sequence << 15)));
  }
  static Report of(double word) noexcept {
    const auto value = static_cast<std::int64_t>(word);
    return {static_cast<Ending>(value & 7), static_cast<int>(value >> 3 & 0x7fff), value >> 18};
  }
};
static_assert(most_ranks <= 0x8000);

}  // namespace syncbn::inline v0::detail
