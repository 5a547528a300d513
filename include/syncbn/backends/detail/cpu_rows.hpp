#pragma once

#include <algorithm>

#include <syncbn/backends/detail/cpu_sums.hpp>
#include <syncbn/concepts.hpp>

// The reductions of whole channels, or segments of them, whose elements are neighbours or lie anywhere.

namespace syncbn::inline v0 {
inline namespace SYNCBN_CPU_ISA {
namespace cpu {

// Of the segments [first, last) of a channel.
template <class Storage>
ChannelMoments moments_of_segments(const Storage* channel, const Geometry<1>& geometry, const Grid& grid, Index first,
                                   Index last) noexcept {
  return sum_segments<ChannelMoments>(grid, first, last, [&]<int count>(Index block, auto& out) {
    using Walk = Blocks<count, Storage, 1>;
    const auto place = [&](int k) { return typename Walk::Place{{channel}, grid.first_element(block + k)}; };
    moments_of_blocks(Walk(geometry, grid.size_of(block), place), out);
  });
}

// Of whole channels: several side by side where a channel is one block.
template <class Storage>
void moments_of_channels(const Storage* data, const Geometry<1>& geometry, const Grid& grid, ChannelRange range,
                         ChannelMoments* out) noexcept {
  using Walk = Blocks<blocks_at_once, Storage, 1>;
  const auto channel = [&](Index c) { return data + c * geometry.channel_stride[0]; };
  Index c = range.first;
  for (; grid.blocks == 1 && c + blocks_at_once <= range.last; c += blocks_at_once) {
    ChannelMoments sums[blocks_at_once];
    const auto place = [&](int k) { return typename Walk::Place{{channel(c + k)}, 0}; };
    moments_of_blocks(Walk(geometry, grid.elements, place), sums);
    std::copy_n(sums, blocks_at_once, out + (c - range.first));
  }
  for (; c < range.last; ++c) out[c - range.first] = moments_of_segments(channel(c), geometry, grid, 0, grid.segments);
}

template <class Storage>
TwoSums gradient_sums_of_segments(const Storage* dy_channel, const Storage* x_channel, const Geometry<2>& geometry,
                                  const Grid& grid, Index first, Index last, double mean) noexcept {
  return sum_segments<TwoSums>(grid, first, last, [&]<int count>(Index block, auto& out) {
    using Walk = Blocks<count, Storage, 2>;
    const auto place = [&](int k) {
      return typename Walk::Place{{dy_channel, x_channel}, grid.first_element(block + k)};
    };
    double means[count];
    std::fill_n(means, count, mean);
    gradient_sums_of_blocks(Walk(geometry, grid.size_of(block), place), means, out);
  });
}

template <class Storage>
void gradient_sums_of_channels(const Storage* dy, const Storage* x, const Geometry<2>& geometry, const Grid& grid,
                               ChannelRange range, const double* mean, TwoSums* out) noexcept {
  using Walk = Blocks<blocks_at_once, Storage, 2>;
  const auto dy_channel = [&](Index c) { return dy + c * geometry.channel_stride[0]; };
  const auto x_channel = [&](Index c) { return x + c * geometry.channel_stride[1]; };
  Index c = range.first;
  for (; grid.blocks == 1 && c + blocks_at_once <= range.last; c += blocks_at_once) {
    TwoSums sums[blocks_at_once];
    double means[blocks_at_once];
    std::copy_n(mean + c, blocks_at_once, means);
    const auto place = [&](int k) { return typename Walk::Place{{dy_channel(c + k), x_channel(c + k)}, 0}; };
    gradient_sums_of_blocks(Walk(geometry, grid.elements, place), means, sums);
    std::copy_n(sums, blocks_at_once, out + (c - range.first));
  }
  for (; c < range.last; ++c) {
    out[c - range.first] =
        gradient_sums_of_segments(dy_channel(c), x_channel(c), geometry, grid, 0, grid.segments, mean[c]);
  }
}

}  // namespace cpu
}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0
