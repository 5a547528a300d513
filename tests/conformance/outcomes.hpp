/// @file
/// Judgements about what ranks came to; in the main thread, where Catch2 may assert.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "conformance/launcher.hpp"
#include "support/catch.hpp"

namespace syncbn_test {

/// @brief All bits alike: what `==` says of doubles, but for zeros of either sign and for NaN.
inline bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0);
}

/// @brief No rank threw, and all ranks that were asked for were there.
inline void require_success(const Outcomes& outcomes, int ranks) {
  REQUIRE(outcomes.size() == static_cast<std::size_t>(ranks));
  for (std::size_t r = 0; r < outcomes.size(); ++r) {
    INFO("rank " << r);
    REQUIRE(outcomes[r].error == "");
  }
}

/// @brief Runs the body on every rank, none of which may throw.
template <class Communicator, class Body>
Outcomes run_ranks_well(const Body& body) {
  const Outcomes outcomes = run_ranks<Communicator>(body);
  require_success(outcomes, ranks_under_test<Communicator>());
  return outcomes;
}

/// @brief Every rank came to the same bits.
inline void check_same_bits_on_all_ranks(const Outcomes& outcomes) {
  for (std::size_t r = 1; r < outcomes.size(); ++r) {
    INFO("rank " << r << " against rank 0");
    CHECK(same_bits(outcomes[r].values, outcomes[0].values));
  }
}

/// @brief Numbers that any rank can compute for itself: in [-1, 1), a function of two integers. @source{splitmix64}
inline double noise(std::uint64_t seed, std::uint64_t i) {
  std::uint64_t z = (seed * 0x9e3779b97f4a7c15U + i + 1) * 0x9e3779b97f4a7c15U;
  z = (z ^ (z >> 30U)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27U)) * 0x94d049bb133111ebU;
  z ^= z >> 31U;
  return static_cast<double>(z >> 11U) * 0x1p-52 - 1;
}

}  // namespace syncbn_test
