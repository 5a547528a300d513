#pragma once

#include <cstdint>

#include <syncbn/detail/config.hpp>
#include <syncbn/tensor_view.hpp>

// The words of the first frame of every exchange. Each is a sum that stays exact, so that all ranks reach the same
// verdict from the same bits.

namespace syncbn::inline v0::detail {

inline constexpr Index header_frame_words = 512;  // 4 KiB, whatever the layer

namespace header {
inline constexpr Index leading = 0;     // 1 on each rank
inline constexpr Index count = 1;       // values per channel
inline constexpr Index failures = 2;    // 1 on a rank that failed before the exchange
inline constexpr Index digits = 3;      // 4 digits of 16 bits, each as d and d^2
inline constexpr Index by_blocks = 11;  // 1 on a rank that gains from an exchange in blocks
inline constexpr Index payload = 16;    // the words between are kept for figures that ranks may come to reduce
inline constexpr Index trailing = header_frame_words - 1;  // 1 on each rank
inline constexpr Index payload_capacity = trailing - payload;
}  // namespace header

// The payload is left alone: a device's kernels may still be reading the sums of the exchange before.
SYNCBN_HOST_DEVICE inline void write_header(double* words, double count, bool failed, bool by_blocks,
                                            std::uint64_t fingerprint, Index trailing = header::trailing) noexcept {
  for (Index i = 0; i < header::payload; ++i) words[i] = 0;
  words[header::leading] = 1;
  words[header::count] = count;
  words[header::failures] = failed ? 1 : 0;
  for (int i = 0; i < 4; ++i) {
    const double d = static_cast<double>(fingerprint >> (16 * i) & 0xffffU);
    words[header::digits + 2 * i] = d;
    words[header::digits + 2 * i + 1] = d * d;
  }
  words[header::by_blocks] = by_blocks ? 1 : 0;
  words[trailing] = 1;
}

// Frames that were cut short, or that met frames of something else, do not add up to the number of ranks.
SYNCBN_HOST_DEVICE inline bool frame_is_whole(double leading, double trailing, int ranks) noexcept {
  return leading == static_cast<double>(ranks) && trailing == static_cast<double>(ranks);
}

// All ranks sent the same digit d iff sum(d) = P * q and sum(d^2) = P * q^2 for an integer q: by Cauchy and Schwarz,
// sum(d^2) >= sum(d)^2 / P with equality for equal digits only. All figures are integers below 2^53.
SYNCBN_HOST_DEVICE inline bool digits_agree(const double* words, int ranks) noexcept {
  const auto p = static_cast<std::int64_t>(ranks);
  for (int i = 0; i < 4; ++i) {
    const auto sum = static_cast<std::int64_t>(words[header::digits + 2 * i]);
    const auto squares = static_cast<std::int64_t>(words[header::digits + 2 * i + 1]);
    const std::int64_t q = sum / p;
    if (sum != p * q || squares != p * q * q) return false;
  }
  return true;
}

}  // namespace syncbn::inline v0::detail
