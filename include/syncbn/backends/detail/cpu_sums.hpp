#pragma once

#include <cmath>
#include <limits>

#include <syncbn/backends/detail/cpu_geometry.hpp>
#include <syncbn/moments.hpp>

// The reductions: moments of x, and the two sums of the gradient. Each comes twice, for elements that are neighbours
// within a channel and for channels that are neighbours (NHWC); both add the same numbers in the same order: element i
// of a block belongs to lane i % 8, lanes are added as sum_of_lanes() does.

namespace syncbn::inline v0 {
inline namespace SYNCBN_CPU_ISA {
namespace cpu {

// Elements are loaded as what they are, 16 bits as float; all sums are double.
template <class Storage>
using load_type = std::conditional_t<std::is_same_v<Storage, double>, double, float>;

// One block's moments, from sums about a value near its mean: the corrected formula of Chan, Golub and LeVeque 1983.
inline ChannelMoments moments_about(double shift, double count, double sum, double squares) noexcept {
  const double m2 = squares - sum * sum / count;
  return {count, shift + sum / count, m2 < 0 ? 0 : m2};
}

// An infinite shift would make inf - inf = NaN of a mean that is infinite.
inline double finite_or_zero(double value) noexcept { return std::isfinite(value) ? value : 0; }

// f64 data need a shift closer to the mean than the block's first element is: see docs/numerics.md.
template <class Load>
inline constexpr bool refines_shift = std::is_same_v<Load, double>;

template <class Load>
Lanes load_lanes(const Load* x, Index i, Index n, double rest) noexcept {
  return n - i >= lane_count ? Lanes::load(x + i) : Lanes::load_some(x + i, n - i, rest);
}

template <class Load>
double sum_about(const Load* x, Index n, double shift) noexcept {
  const Lanes origin = Lanes::all(shift);
  Lanes sum = Lanes::all(0);
  for (Index i = 0; i < n; i += lane_count) sum = sum + (load_lanes(x, i, n, shift) - origin);
  return sum_of_lanes(sum);
}

template <class Load>
ChannelMoments moments_of_block(const Load* x, Index n) noexcept {
  const double count = static_cast<double>(n);
  double shift = finite_or_zero(static_cast<double>(x[0]));
  if constexpr (refines_shift<Load>) shift = finite_or_zero(shift + sum_about(x, n, shift) / count);
  const Lanes origin = Lanes::all(shift);
  Lanes sum = Lanes::all(0);
  Lanes squares = Lanes::all(0);
  for (Index i = 0; i < n; i += lane_count) {
    const Lanes d = load_lanes(x, i, n, shift) - origin;
    sum = sum + d;
    squares = multiply_add(d, d, squares);
  }
  return moments_about(shift, count, sum_of_lanes(sum), sum_of_lanes(squares));
}

struct TwoSums {
  double dy = 0;
  double dy_centred = 0;
};

// About a mean that is not finite there are no deviations, in whatever layout.
inline double centred_sum(double sum, double mean) noexcept {
  return std::isfinite(mean) ? sum : std::numeric_limits<double>::quiet_NaN();
}

template <class Load>
TwoSums gradient_sums_of_block(const Load* dy, const Load* x, Index n, double mean) noexcept {
  const Lanes origin = Lanes::all(mean);
  Lanes sum = Lanes::all(0);
  Lanes centred = Lanes::all(0);
  for (Index i = 0; i < n; i += lane_count) {
    const Lanes g = load_lanes(dy, i, n, 0);
    sum = sum + g;
    centred = multiply_add(g, load_lanes(x, i, n, mean) - origin, centred);
  }
  return {sum_of_lanes(sum), centred_sum(sum_of_lanes(centred), mean)};
}

// ---- Eight neighbouring channels at once -----------------------------------------------------------------------------

template <class Load, class Storage>
Lanes load_channels(const Storage* from) noexcept {
  if constexpr (std::is_same_v<Storage, Load>) {
    return Lanes::load(from);
  } else {
    Load values[lane_count];
    for (int c = 0; c < lane_count; ++c) values[c] = load_element<Load>(from + c);
    return Lanes::load(values);
  }
}

// For each of eight channels, the sum over the eight lanes of its elements.
inline void sum_lanes_of_channels(const Lanes (&lanes)[lane_count], double* sums) noexcept {
  const Lanes even = (lanes[0] + lanes[4]) + (lanes[2] + lanes[6]);
  const Lanes odd = (lanes[1] + lanes[5]) + (lanes[3] + lanes[7]);
  (even + odd).store(sums);
}

// Calls visit(lane, cursor) for `n` elements; lanes are compile-time constants to the optimizer.
template <std::size_t Operands, class Visit>
void for_each_element(Cursor<Operands> cursor, Index n, const Visit& visit) noexcept {
  Index i = 0;
  for (; i + lane_count <= n; i += lane_count) {
    for (int lane = 0; lane < lane_count; ++lane) {
      visit(lane, cursor);
      cursor.advance(1);
    }
  }
  for (int lane = 0; i < n; ++lane, ++i) {
    visit(lane, cursor);
    cursor.advance(1);
  }
}

template <class Storage>
void moments_of_channels(const Storage* channels, const Cursor<1>& cursor, Index n, ChannelMoments* out) noexcept {
  using Load = load_type<Storage>;
  const double count = static_cast<double>(n);
  double shift[lane_count];
  load_channels<Load>(channels + cursor.offset(0)).store(shift);
  for (double& s : shift) s = finite_or_zero(s);
  double sums[lane_count];
  if constexpr (refines_shift<Load>) {
    const Lanes origin = Lanes::load(shift);
    Lanes sum[lane_count];
    for (Lanes& s : sum) s = Lanes::all(0);
    for_each_element(cursor, n, [&](int lane, const Cursor<1>& at) {
      sum[lane] = sum[lane] + (load_channels<Load>(channels + at.offset(0)) - origin);
    });
    sum_lanes_of_channels(sum, sums);
    for (int c = 0; c < lane_count; ++c) shift[c] = finite_or_zero(shift[c] + sums[c] / count);
  }
  const Lanes origin = Lanes::load(shift);
  Lanes sum[lane_count];
  Lanes squares[lane_count];
  for (int lane = 0; lane < lane_count; ++lane) sum[lane] = squares[lane] = Lanes::all(0);
  for_each_element(cursor, n, [&](int lane, const Cursor<1>& at) {
    const Lanes d = load_channels<Load>(channels + at.offset(0)) - origin;
    sum[lane] = sum[lane] + d;
    squares[lane] = multiply_add(d, d, squares[lane]);
  });
  double square_sums[lane_count];
  sum_lanes_of_channels(sum, sums);
  sum_lanes_of_channels(squares, square_sums);
  for (int c = 0; c < lane_count; ++c) out[c] = moments_about(shift[c], count, sums[c], square_sums[c]);
}

template <class Storage>
void gradient_sums_of_channels(const Storage* dy_channels, const Storage* x_channels, const Cursor<2>& cursor, Index n,
                               const double* mean, TwoSums* out) noexcept {
  using Load = load_type<Storage>;
  const Lanes origin = Lanes::load(mean);
  Lanes sum[lane_count];
  Lanes centred[lane_count];
  for (int lane = 0; lane < lane_count; ++lane) sum[lane] = centred[lane] = Lanes::all(0);
  for_each_element(cursor, n, [&](int lane, const Cursor<2>& at) {
    const Lanes g = load_channels<Load>(dy_channels + at.offset(0));
    const Lanes d = load_channels<Load>(x_channels + at.offset(1)) - origin;
    sum[lane] = sum[lane] + g;
    centred[lane] = multiply_add(g, d, centred[lane]);
  });
  double sums[lane_count];
  double centred_sums[lane_count];
  sum_lanes_of_channels(sum, sums);
  sum_lanes_of_channels(centred, centred_sums);
  for (int c = 0; c < lane_count; ++c) out[c] = {sums[c], centred_sum(centred_sums[c], mean[c])};
}

}  // namespace cpu
}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0
