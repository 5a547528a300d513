#pragma once

#include <cstdint>
#include <random>

#include "support/oracle.hpp"

namespace syncbn_test {

/// @brief Numbers that look random and are the same everywhere.
/// @param count  how many. @param seed  another seed, other numbers. @param centre  of their range.
/// @param spread  the largest distance from the centre. @return the numbers, each a multiple of spread / 2^20.
inline oracle::Numbers values(std::size_t count, std::uint64_t seed, oracle::Number centre = 0,
                              oracle::Number spread = 1) {
  std::mt19937_64 random(seed);
  oracle::Numbers result(count);
  for (oracle::Number& value : result) {
    const auto step =
        static_cast<oracle::Number>(static_cast<std::int64_t>(random() >> 43U) - (std::int64_t{1} << 20U));
    value = centre + spread * step / (std::int64_t{1} << 20U);
  }
  return result;
}

}  // namespace syncbn_test
