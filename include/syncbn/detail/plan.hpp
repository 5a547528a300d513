#pragma once

#include <algorithm>

#include <syncbn/detail/call.hpp>
#include <syncbn/detail/header.hpp>

// How a payload is cut into frames: a function of what all ranks share, so that an empty rank sends the same ones.

namespace syncbn::inline v0::detail {

inline constexpr Index most_blocks = 256;              // of an exchange
inline constexpr Index most_blocks_under_way = 64;     // handed to the fabric and not back
inline constexpr double bytes_of_a_block = 256 << 10;  // at least, of a rank's tensor: a part of a second cache
// Less than this is in a cache when it is read again; one frame is then better than several.
inline constexpr double bytes_worth_blocks = 4 << 20;
// Blocks of more channels have a multiple of so many: backends sum short channels side by side, and leave none alone.
inline constexpr Index channels_side_by_side = 4;

struct Plan {
  Index words = 0;        // of the payload
  Index block_words = 0;  // of all blocks but the last, which may have fewer

  Index blocks() const noexcept { return words <= block_words ? 1 : (words + block_words - 1) / block_words; }
  Index first_word(Index block) const noexcept { return std::min(block * block_words, words); }
  Index words_of(Index block) const noexcept { return first_word(block + 1) - first_word(block); }
  // Whether the payload has frames of its own behind the header's.
  bool travels_alone() const noexcept { return blocks() > 1 || words > header::payload_capacity; }

  friend bool operator==(const Plan&, const Plan&) = default;
};

// Blocks of whole channels, at most `most`. `bytes` is what a rank's tensor has, on average, as far as earlier exchanges
// have told.
inline Plan plan_of(Index words, double bytes, Index most = most_blocks) noexcept {
  if (bytes < bytes_worth_blocks) return {words, words};
  const Index channels = words / words_per_channel;
  const double worth = std::min(bytes / bytes_of_a_block, static_cast<double>(most));
  const Index wanted = std::min(static_cast<Index>(worth), channels);
  if (wanted <= 1) return {words, words};
  const Index least = (channels + wanted - 1) / wanted;
  constexpr Index unit = channels_side_by_side;
  return {words, words_per_channel * (least <= unit ? least : (least + unit - 1) / unit * unit)};
}

// How far an exchange has come.
struct Progress {
  Index started = 0;    // blocks: handed to the fabric
  Index landed = 0;     // back from it
  Index finished = 0;   // handed on
  bool judged = false;  // the header
  bool open = false;    // something was started, and not all is finished
};

// What a layer's exchanges are planned by: the same on all ranks.
struct Planner {
  Index most = most_blocks;
  double bytes = 0;  // of a rank's tensor in the largest exchange so far, on average

  Plan plan(Index words) const noexcept { return plan_of(words, bytes, most); }
  void take(double total_count, const ExchangeCall& call, int ranks) noexcept {
    const double elements = total_count * static_cast<double>(call.channels) / ranks;
    bytes = std::max(bytes, elements * static_cast<double>(size_of(call.kind)));
  }
};

}  // namespace syncbn::inline v0::detail
