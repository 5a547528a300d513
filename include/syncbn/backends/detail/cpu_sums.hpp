#pragma once

#include <cmath>
#include <limits>
#include <utility>

#include <syncbn/backends/detail/cpu_geometry.hpp>
#include <syncbn/backends/detail/cpu_lanes.hpp>
#include <syncbn/moments.hpp>

// The reductions, moments of x and the two sums of the gradient, for elements that are neighbours within a channel;
// cpu_columns.hpp has those for channels that are neighbours. Both add the same numbers in the same order: element i of a
// block belongs to lane i % 8, lanes are added as sum_of_lanes() does.

namespace syncbn::inline v0 {
inline namespace SYNCBN_CPU_ISA {
namespace cpu {

// One block's moments, from sums about a value near its mean: the corrected formula of Chan, Golub and LeVeque 1983.
inline ChannelMoments moments_about(double shift, double count, double sum, double squares) noexcept {
  const double m2 = squares - sum * sum / count;
  return {count, shift + sum / count, m2 < 0 ? 0 : m2};
}

// An infinite shift would make inf - inf = NaN of a mean that is infinite.
inline double finite_or_zero(double value) noexcept { return std::isfinite(value) ? value : 0; }

// f64 data need a shift closer to the mean than the block's first element is: see docs/numerics.md.
template <class Storage>
inline constexpr bool refines_shift = std::is_same_v<Storage, double>;

// Blocks that are summed side by side: a block alone is one chain of additions, each of which waits for the one before.
inline constexpr int blocks_at_once = Lanes::count >= 4 ? 1 : 4 / Lanes::count;

// f(0), f(1), ... with constants as arguments.
template <int count, class F>
SYNCBN_ALWAYS_INLINE void unrolled(const F& f) noexcept {
  [&]<int... k>(std::integer_sequence<int, k...>) {
    (f(std::integral_constant<int, k>()), ...);
  }(std::make_integer_sequence<int, count>());
}

template <class Storage>
Lanes load_lanes(const Storage* x, Index i, Index n, double rest) noexcept {
  return n - i >= lane_count ? Lanes::load(x + i) : Lanes::load_some(x + i, n - i, rest);
}

// Calls visit(k, i, lanes of block k from i on) for all of them; `rest` is what stands in for elements beyond the last.
template <int count, class Storage, class Visit>
SYNCBN_ALWAYS_INLINE void for_each_lanes(const Storage* const (&x)[count], Index n, const double (&rest)[count],
                                         const Visit& visit) noexcept {
  Index i = 0;
  for (; i + lane_count <= n; i += lane_count) {
    unrolled<count>([&](auto k) { visit(k, i, Lanes::load(x[k] + i)); });
  }
  if (i < n) unrolled<count>([&](auto k) { visit(k, i, Lanes::load_some(x[k] + i, n - i, rest[k])); });
}

// The moments of `count` blocks of n elements each.
template <int count, class Storage>
void moments_of_blocks(const Storage* const (&x)[count], Index n, ChannelMoments (&out)[count]) noexcept {
  const double elements = static_cast<double>(n);
  double shift[count];
  Lanes origin[count];
  Lanes sum[count];
  unrolled<count>([&](auto k) { shift[k] = finite_or_zero(load_element<double>(x[k])); });
  const auto set_origin = [&](auto k) {
    origin[k] = Lanes::all(shift[k]);
    sum[k] = Lanes::all(0);
  };
  unrolled<count>(set_origin);
  if constexpr (refines_shift<Storage>) {
    for_each_lanes<count>(x, n, shift,
                          [&](auto k, Index, const Lanes& lanes) { sum[k] = sum[k] + (lanes - origin[k]); });
    unrolled<count>([&](auto k) { shift[k] = finite_or_zero(shift[k] + sum_of_lanes(sum[k]) / elements); });
    unrolled<count>(set_origin);
  }
  Lanes squares[count];
  unrolled<count>([&](auto k) { squares[k] = Lanes::all(0); });
  for_each_lanes<count>(x, n, shift, [&](auto k, Index, const Lanes& lanes) {
    const Lanes d = lanes - origin[k];
    sum[k] = sum[k] + d;
    squares[k] = multiply_add(d, d, squares[k]);
  });
  unrolled<count>(
      [&](int k) { out[k] = moments_about(shift[k], elements, sum_of_lanes(sum[k]), sum_of_lanes(squares[k])); });
}

struct TwoSums {
  double dy = 0;
  double dy_centred = 0;
};
inline TwoSums merge(TwoSums a, TwoSums b) noexcept { return {a.dy + b.dy, a.dy_centred + b.dy_centred}; }

// About a mean that is not finite there are no deviations, in whatever layout.
inline double centred_sum(double sum, double mean) noexcept {
  return std::isfinite(mean) ? sum : std::numeric_limits<double>::quiet_NaN();
}

// The sums of the gradient over `count` blocks of n elements each; mean is that of each block's channel.
template <int count, class Storage>
void gradient_sums_of_blocks(const Storage* const (&dy)[count], const Storage* const (&x)[count], Index n,
                             const double (&mean)[count], TwoSums (&out)[count]) noexcept {
  Lanes origin[count];
  Lanes sum[count];
  Lanes centred[count];
  unrolled<count>([&](auto k) {
    origin[k] = Lanes::all(mean[k]);
    sum[k] = centred[k] = Lanes::all(0);
  });
  for_each_lanes<count>(x, n, mean, [&](auto k, Index i, const Lanes& lanes) {
    const Lanes g = load_lanes(dy[k], i, n, 0);
    sum[k] = sum[k] + g;
    centred[k] = multiply_add(g, lanes - origin[k], centred[k]);
  });
  unrolled<count>([&](auto k) { out[k] = {sum_of_lanes(sum[k]), centred_sum(sum_of_lanes(centred[k]), mean[k])}; });
}

// Merges the sums of the segments [first, last) of one channel, blocks in order into segments, segments in order.
// sum_blocks.operator()<count>(block, out) sums `count` blocks of equal size from `block` on.
template <class Sum, class SumBlocks>
Sum sum_segments(const Grid& grid, Index first, Index last, const SumBlocks& sum_blocks) noexcept {
  Sum total;
  Sum segment;
  Index current = first;
  Index block = grid.first_block(first);
  const Index end = grid.first_block(last);
  const auto some = [&]<int count>(std::integral_constant<int, count>) {
    Sum out[count];
    // The last block of a channel may be smaller than the others.
    while (block + count <= end && (count == 1 || grid.size_of(block + count - 1) == grid.size_of(block))) {
      sum_blocks.template operator()<count>(block, out);
      for (int k = 0; k < count; ++k, ++block) {
        if (block == grid.first_block(current + 1)) {
          total = merge(total, segment);
          segment = {};
          ++current;
        }
        segment = merge(segment, out[k]);
      }
    }
  };
  some(std::integral_constant<int, blocks_at_once>());
  some(std::integral_constant<int, 1>());
  return merge(total, segment);
}

}  // namespace cpu
}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0
