#pragma once

#include <algorithm>
#include <tuple>

#include <syncbn/backends/detail/cpu_sums.hpp>

// The reductions of whole channels, or segments of them, whose elements are neighbours or lie anywhere.

namespace syncbn::inline v0 {
inline namespace SYNCBN_CPU_ISA {
namespace cpu {

// `count` blocks of n elements side by side; place(k) gives the channel that block k is of, and its first element there.
template <int count, class Storage, class Place>
void moments_at(const Geometry<1>& geometry, Index n, const Place& place, ChannelMoments (&out)[count]) noexcept {
  Storage buffer[count][block_elements];
  const Storage* x[count];
  for (int k = 0; k < count; ++k) {
    const auto [channel, first] = place(k);
    x[k] = fetch(channel, Cursor<1>(geometry, first), geometry, 0, n, buffer[k]);
  }
  moments_of_blocks<count>(x, n, out);
}

// Of the segments [first, last) of a channel.
template <class Storage>
ChannelMoments moments_of_segments(const Storage* channel, const Geometry<1>& geometry, const Grid& grid, Index first,
                                   Index last) noexcept {
  return sum_segments<ChannelMoments>(grid, first, last, [&]<int count>(Index block, auto& out) {
    const auto place = [&](int k) { return std::tuple(channel, grid.first_element(block + k)); };
    moments_at<count, Storage>(geometry, grid.size_of(block), place, out);
  });
}

// Of the channels [first, last): several side by side where a channel is one block.
template <class Storage>
void moments_of_channels(const Storage* data, const Geometry<1>& geometry, const Grid& grid, Index first, Index last,
                         ChannelMoments* out) noexcept {
  const auto channel = [&](Index c) { return data + c * geometry.channel_stride[0]; };
  Index c = first;
  for (; grid.blocks == 1 && c + blocks_at_once <= last; c += blocks_at_once) {
    ChannelMoments sums[blocks_at_once];
    const auto place = [&](int k) { return std::tuple(channel(c + k), Index{0}); };
    moments_at<blocks_at_once, Storage>(geometry, grid.elements, place, sums);
    std::copy_n(sums, blocks_at_once, out + (c - first));
  }
  for (; c < last; ++c) out[c - first] = moments_of_segments(channel(c), geometry, grid, 0, grid.segments);
}

// The same for the gradient; place(k) gives the channel in dy and x, the first element and the mean.
template <int count, class Storage, class Place>
void gradient_sums_at(const Geometry<2>& geometry, Index n, const Place& place, TwoSums (&out)[count]) noexcept {
  Storage buffer[2][count][block_elements];
  const Storage* dy[count];
  const Storage* x[count];
  double mean[count];
  for (int k = 0; k < count; ++k) {
    const auto [dy_channel, x_channel, first, channel_mean] = place(k);
    const Cursor<2> cursor(geometry, first);
    dy[k] = fetch(dy_channel, cursor, geometry, 0, n, buffer[0][k]);
    x[k] = fetch(x_channel, cursor, geometry, 1, n, buffer[1][k]);
    mean[k] = channel_mean;
  }
  gradient_sums_of_blocks<count>(dy, x, n, mean, out);
}

template <class Storage>
TwoSums gradient_sums_of_segments(const Storage* dy_channel, const Storage* x_channel, const Geometry<2>& geometry,
                                  const Grid& grid, Index first, Index last, double mean) noexcept {
  return sum_segments<TwoSums>(grid, first, last, [&]<int count>(Index block, auto& out) {
    const auto place = [&](int k) { return std::tuple(dy_channel, x_channel, grid.first_element(block + k), mean); };
    gradient_sums_at<count, Storage>(geometry, grid.size_of(block), place, out);
  });
}

template <class Storage>
void gradient_sums_of_channels(const Storage* dy, const Storage* x, const Geometry<2>& geometry, const Grid& grid,
                               Index first, Index last, const double* mean, TwoSums* out) noexcept {
  const auto dy_channel = [&](Index c) { return dy + c * geometry.channel_stride[0]; };
  const auto x_channel = [&](Index c) { return x + c * geometry.channel_stride[1]; };
  Index c = first;
  for (; grid.blocks == 1 && c + blocks_at_once <= last; c += blocks_at_once) {
    TwoSums sums[blocks_at_once];
    const auto place = [&](int k) { return std::tuple(dy_channel(c + k), x_channel(c + k), Index{0}, mean[c + k]); };
    gradient_sums_at<blocks_at_once, Storage>(geometry, grid.elements, place, sums);
    std::copy_n(sums, blocks_at_once, out + (c - first));
  }
  for (; c < last; ++c) {
    out[c - first] = gradient_sums_of_segments(dy_channel(c), x_channel(c), geometry, grid, 0, grid.segments, mean[c]);
  }
}

}  // namespace cpu
}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0
