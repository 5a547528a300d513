#pragma once

#include <functional>
#include <span>
#include <vector>

#include "feature_maps.hpp"

/// @file
/// Which samples of a batch a rank works on.

namespace digits {

/// @brief From the numbers of a whole batch to those of one rank.
using Sharding = std::function<std::vector<Index>(std::span<const Index> batch)>;

/// @brief A fixed number of ranks must not leave one without samples where statistics are local: 28 / 16 is 1.
inline constexpr int max_ranks = 16;

/// @brief One rank has the whole batch.
inline Sharding whole_batch() {
  return [](std::span<const Index> batch) { return std::vector<Index>(batch.begin(), batch.end()); };
}

/// @brief The whole batch, last sample first: the same mathematics in another order of summation.
inline Sharding reversed_batch() {
  return [](std::span<const Index> batch) { return std::vector<Index>(batch.rbegin(), batch.rend()); };
}

/// @brief Equal parts, as nearly as possible: rank r ends before sample number batch * (r + 1) / ranks.
inline Sharding even_shard(int rank, int ranks) {
  return [=](std::span<const Index> batch) {
    const auto first = batch.begin() + std::ssize(batch) * rank / ranks;
    const auto last = batch.begin() + std::ssize(batch) * (rank + 1) / ranks;
    return std::vector<Index>(first, last);
  };
}

/// @brief Parts of very different size: rank r ends before sample number batch * (r + 1)^2 / ranks^2.
///
/// 32 samples become 8 and 24 on two ranks, 2, 6, 10 and 14 on four. A batch of another size, that is the last one of
/// an epoch, goes to the last rank alone: the others then take part with no samples at all.
inline Sharding uneven_shard(int rank, int ranks, Index full_batch) {
  return [=](std::span<const Index> batch) {
    if (std::ssize(batch) != full_batch) {
      return rank == ranks - 1 ? std::vector<Index>(batch.begin(), batch.end()) : std::vector<Index>();
    }
    const auto first = batch.begin() + full_batch * rank * rank / (ranks * ranks);
    const auto last = batch.begin() + full_batch * (rank + 1) * (rank + 1) / (ranks * ranks);
    return std::vector<Index>(first, last);
  };
}

}  // namespace digits
