#pragma once

#include <algorithm>

#include <syncbn/backends/detail/cpu_sums.hpp>
#include <syncbn/concepts.hpp>

// The reductions of whole channels, or segments of them, whose elements are neighbours or lie anywhere.

namespace syncbn::inline v0 {
inline namespace SYNCBN_CPU_ISA {
namespace cpu {

struct BlockOf {
  Index channel;
  Index block;
};

// The sum of the segments [first, last) of one channel, several blocks side by side.
// sum_blocks(blocks, n, out) sums blocks of n elements each.
template <class Sum, class SumBlocks>
Sum sum_segments(const Grid& grid, Index channel, Index first, Index last, const SumBlocks& sum_blocks) noexcept {
  Merger<Sum> merger(grid, first);
  Index block = grid.first_block(first);
  const Index end = grid.first_block(last);
  const auto some = [&]<std::size_t count>(std::integral_constant<std::size_t, count>) {
    // The last block of a channel may be smaller than the others.
    constexpr auto others = static_cast<Index>(count) - 1;
    while (block + others < end && (others == 0 || grid.size_of(block + others) == grid.size_of(block))) {
      BlockOf blocks[count];
      for (std::size_t k = 0; k < count; ++k) blocks[k] = {channel, block + static_cast<Index>(k)};
      Sum out[count];
      sum_blocks(blocks, grid.size_of(block), out);
      for (std::size_t k = 0; k < count; ++k, ++block) merger.add(block, out[k]);
    }
  };
  some(std::integral_constant<std::size_t, blocks_at_once>());
  some(std::integral_constant<std::size_t, 1>());
  return merger.total();
}

// Of whole channels, several of them side by side or one after the other.
template <class Sum, class SumBlocks>
void sum_channels(const Grid& grid, ChannelRange range, bool side_by_side, Sum* out,
                  const SumBlocks& sum_blocks) noexcept {
  Index c = range.first;
  if constexpr (blocks_at_once > 1) {
    constexpr auto at_once = static_cast<Index>(blocks_at_once);
    for (; side_by_side && c + at_once <= range.last; c += at_once) {
      std::array<Merger<Sum>, blocks_at_once> mergers = [&]<std::size_t... k>(std::index_sequence<k...>) {
        return std::array{(static_cast<void>(k), Merger<Sum>(grid, 0))...};
      }(std::make_index_sequence<blocks_at_once>());
      for (Index block = 0; block < grid.blocks; ++block) {
        BlockOf blocks[blocks_at_once];
        for (std::size_t k = 0; k < blocks_at_once; ++k) blocks[k] = {c + static_cast<Index>(k), block};
        Sum sums[blocks_at_once];
        sum_blocks(blocks, grid.size_of(block), sums);
        for (std::size_t k = 0; k < mergers.size(); ++k) mergers[k].add(block, sums[k]);
      }
      for (const Merger<Sum>& merger : mergers) *out++ = merger.total();
    }
  }
  for (; c < range.last; ++c) *out++ = sum_segments<Sum>(grid, c, 0, grid.segments, sum_blocks);
}

// How several blocks of moments are summed.
template <class Storage>
auto moments_summer(const Storage* data, const Geometry<1>& geometry, const Grid& grid) noexcept {
  return [=, &geometry, &grid]<std::size_t count>(const BlockOf(&blocks)[count], Index n, ChannelMoments(&out)[count]) {
    using Walk = Blocks<count, Storage, 1>;
    const auto place = [&](std::size_t k) {
      const Storage* channel = data + blocks[k].channel * geometry.channel_stride[0];
      return typename Walk::Place{{channel}, grid.first_element(blocks[k].block)};
    };
    moments_of_blocks(Walk(geometry, n, place), out);
  };
}

// The same for the sums of the gradient; data are dy and x.
template <class Storage>
auto gradient_summer(const std::array<const Storage*, 2>& data, const Geometry<2>& geometry, const Grid& grid,
                     const double* mean) noexcept {
  return [=, &geometry, &grid]<std::size_t count>(const BlockOf(&blocks)[count], Index n, TwoSums(&out)[count]) {
    using Walk = Blocks<count, Storage, 2>;
    const auto place = [&](std::size_t k) {
      const Index c = blocks[k].channel;
      return typename Walk::Place{{data[0] + c * geometry.channel_stride[0], data[1] + c * geometry.channel_stride[1]},
                                  grid.first_element(blocks[k].block)};
    };
    double means[count];
    for (std::size_t k = 0; k < count; ++k) means[k] = mean[blocks[k].channel];
    gradient_sums_of_blocks(Walk(geometry, n, place), means, out);
  };
}

}  // namespace cpu
}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0
