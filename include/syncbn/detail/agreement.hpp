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

SYNCBN_HOST_DEVICE inline void set_rank(double* bitmap, int rank) noexcept {
  bitmap[rank / ranks_per_word] = static_cast<double>(std::uint64_t{1} << (rank % ranks_per_word));
}
SYNCBN_HOST_DEVICE inline int lowest_rank(const double* bitmap, int ranks) noexcept {
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

// `sum()` adds the words of the frame at `words` over all ranks.
template <class Sum>
class ErrorRound {
 public:
  ErrorRound(double* words, int rank, int ranks, const std::string& layer, const Sum& sum) noexcept
      : words_(words), rank_(rank), ranks_(ranks), layer_(layer), sum_(sum) {}

  // The lowest rank that failed, or -1; and whether this one calls what rank 0 does.
  int find_speaker(bool failed, std::uint64_t fingerprint, bool& differs) const {
    clear();
    if (failed) set_rank(payload(), rank_);
    const auto digit = [&](int i) { return static_cast<double>(fingerprint >> (16 * i) & 0xffffU); };
    for (int i = 0; i < 4 && rank_ == 0; ++i) words_[header::digits + i] = digit(i);
    sum_();
    differs = false;
    for (int i = 0; i < 4; ++i) differs = differs || words_[header::digits + i] != digit(i);
    return lowest_rank(payload(), ranks_);
  }

  [[noreturn]] void throw_failure_of(int speaker, const RankFailure& failure) const {
    clear();
    if (rank_ == speaker) {
      words_[0] = static_cast<double>(failure.kind());
      write_text(payload(), failure.message());
      write_text(payload() + words_per_message, std::string_view(layer_).substr(0, longest_name));
    }
    sum_();
    Text message;
    Text name;
    read_text(payload(), message);
    read_text(payload() + words_per_message, name);
    throw_failure(static_cast<FailureKind>(words_[0]),
                  std::string(message.view()) + from(speaker) + " [layer '" + std::string(name.view()) + "']");
  }

  // `describe()` says what this rank was calling.
  template <class Describe>
  [[noreturn]] void throw_disagreement(bool differs, const Describe& describe) const {
    clear();
    if (differs) set_rank(payload(), rank_);
    sum_();
    const int other = lowest_rank(payload(), ranks_);
    if (other < 0) throw CommunicatorError("the header's sums are wrong although all ranks sent the same words");
    Text mine;
    if (rank_ == 0 || rank_ == other) {
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

 private:
  double* payload() const noexcept { return words_ + header::payload; }
  void clear() const noexcept {
    for (Index i = 0; i < header_frame_words; ++i) words_[i] = 0;
  }
  void tell(int speaker, const Text& mine, Text& told) const {
    clear();
    if (rank_ == speaker) write_text(payload(), mine.view());
    sum_();
    read_text(payload(), told);
  }
  std::string from(int rank) const { return " [rank " + std::to_string(rank) + " of " + std::to_string(ranks_) + "]"; }

  double* words_;
  int rank_;
  int ranks_;
  const std::string& layer_;
  const Sum& sum_;
};

// `describe()` says what this rank was calling in `layer`.
template <class Sum, class Describe>
[[noreturn]] void throw_together(double* words, int rank, int ranks, std::uint64_t fingerprint,
                                 const RankFailure& failure, const std::string& layer, const Sum& sum,
                                 const Describe& describe) {
  const ErrorRound round(words, rank, ranks, layer, sum);
  bool differs = false;
  const int speaker = round.find_speaker(failure.failed(), fingerprint, differs);
  if (speaker >= 0) round.throw_failure_of(speaker, failure);
  round.throw_disagreement(differs, describe);
}

}  // namespace syncbn::inline v0::detail
