#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <syncbn/detail/header.hpp>
#include <syncbn/rank_failure.hpp>

// The error round: how all ranks come to throw the same exception, by sums of frames of the header's size alone.
// It runs only after a bad verdict, which all ranks have reached from the same words.

namespace syncbn::inline v0::detail {

// Each rank owns one bit of one word: sums of different powers of two are their union.
inline constexpr Index ranks_per_word = 50;
inline constexpr int most_ranks = static_cast<int>(ranks_per_word * (header_frame_words - header::payload));

inline void set_rank(double* bitmap, int rank) noexcept {
  bitmap[rank / ranks_per_word] = static_cast<double>(std::uint64_t{1} << (rank % ranks_per_word));
}
inline int lowest_rank(const double* bitmap, int ranks) noexcept {
  for (int r = 0; r < ranks; ++r) {
    if ((static_cast<std::uint64_t>(bitmap[r / ranks_per_word]) >> (r % ranks_per_word) & 1U) != 0) return r;
  }
  return -1;
}

// Six characters in a word: integers below 2^48 are exact.
inline constexpr std::size_t characters_per_word = 6;
inline void write_text(double* words, std::string_view text) noexcept {
  words[0] = static_cast<double>(text.size());
  for (std::size_t i = 0; i < text.size(); i += characters_per_word) {
    std::uint64_t packed = 0;
    for (std::size_t j = 0; j < characters_per_word && i + j < text.size(); ++j) {
      packed |= static_cast<std::uint64_t>(static_cast<unsigned char>(text[i + j])) << (8 * j);
    }
    words[1 + i / characters_per_word] = static_cast<double>(packed);
  }
}
// Of fixed size: between two sums nothing may fail on one rank alone, not even an allocation.
struct Text {
  std::size_t size = 0;
  char characters[RankFailure::longest_message];

  std::string_view view() const noexcept { return {characters, size}; }
};
inline void copy_text(std::string_view from, Text& to) noexcept {
  to.size = from.size() < RankFailure::longest_message ? from.size() : RankFailure::longest_message;
  for (std::size_t i = 0; i < to.size; ++i) to.characters[i] = from[i];
}
inline void read_text(const double* words, Text& to) noexcept {
  to.size = static_cast<std::size_t>(words[0]);
  for (std::size_t i = 0; i < to.size; ++i) {
    const auto packed = static_cast<std::uint64_t>(words[1 + i / characters_per_word]);
    to.characters[i] = static_cast<char>(packed >> (8 * (i % characters_per_word)) & 0xffU);
  }
}
// A message may be followed by a second text, the name of a layer.
inline constexpr Index words_per_message = 1 + static_cast<Index>(RankFailure::longest_message / characters_per_word);
inline constexpr std::size_t longest_name = 1400;
static_assert(words_per_message + 1 + static_cast<Index>(longest_name / characters_per_word) <
              header_frame_words - header::payload);

// `sum()` adds the words of the frame at `words` over all ranks. `describe()` says what this rank was calling in `layer`.
template <class Sum, class Describe>
[[noreturn]] void throw_together(double* words, int rank, int ranks, std::uint64_t fingerprint,
                                 const RankFailure& failure, const std::string& layer, const Sum& sum,
                                 const Describe& describe) {
  double* const payload = words + header::payload;
  const auto clear = [&] {
    for (Index i = 0; i < header_frame_words; ++i) words[i] = 0;
  };
  const auto from = [&](int r) { return " [rank " + std::to_string(r) + " of " + std::to_string(ranks) + "]"; };
  const auto tell = [&](int speaker, const Text& mine, Text& told) {
    clear();
    if (rank == speaker) write_text(payload, mine.view());
    sum();
    read_text(payload, told);
  };

  // Who failed; and what rank 0 was calling, in case nobody did.
  clear();
  if (failure.failed()) set_rank(payload, rank);
  if (rank == 0) {
    for (int i = 0; i < 4; ++i) words[header::digits + i] = static_cast<double>(fingerprint >> (16 * i) & 0xffffU);
  }
  sum();
  if (const int speaker = lowest_rank(payload, ranks); speaker >= 0) {
    clear();
    if (rank == speaker) {
      words[0] = static_cast<double>(failure.kind());
      write_text(payload, failure.message());
      write_text(payload + words_per_message, std::string_view(layer).substr(0, longest_name));
    }
    sum();
    Text message;
    Text name;
    read_text(payload, message);
    read_text(payload + words_per_message, name);
    throw_failure(static_cast<FailureKind>(words[0]),
                  std::string(message.view()) + from(speaker) + " [layer '" + std::string(name.view()) + "']");
  }

  bool differs = false;
  for (int i = 0; i < 4; ++i) {
    differs = differs || words[header::digits + i] != static_cast<double>(fingerprint >> (16 * i) & 0xffffU);
  }
  clear();
  if (differs) set_rank(payload, rank);
  sum();
  const int other = lowest_rank(payload, ranks);
  if (other < 0) throw CommunicatorError("the header's sums are wrong although all ranks sent the same words");
  Text mine;
  if (rank == 0 || rank == other) {
    try {
      copy_text(describe(), mine);
    } catch (const std::exception& e) {
      copy_text(e.what(), mine);
    }
  }
  Text first;
  Text second;
  tell(0, mine, first);
  tell(other, mine, second);
  throw Error("ranks disagree about what they are calling: " + std::string(first.view()) + from(0) + ", but " +
              std::string(second.view()) + from(other));
}

}  // namespace syncbn::inline v0::detail
