#pragma once

#include <array>
#include <utility>

#include <syncbn/backends/detail/cpu_columns.hpp>

// The reductions where neighbouring channels are neighbours in memory, but so few (images of two, three or four channels)
// that rows are shorter than a packet. Eight rows are as many packets of eight as there are channels, without gaps: number p
// of these is row p / channels, that is its lane, of channel p % channels. So rows are summed as they lie, and sorted into
// lanes at the end; what is added to what is the same as in cpu_sums.hpp.

namespace syncbn::inline v0 {
inline namespace SYNCBN_CPU_ISA {
namespace cpu {

// Numbers of eight rows, or sums of them, in the order of memory.
template <std::size_t channels>
struct EightRows {
  static constexpr std::size_t size = channels * lane_count;
  Lanes part[channels];

  // values[p % channels], at every place p.
  SYNCBN_ALWAYS_INLINE static EightRows repeating(const double* values) noexcept {
    double numbers[size];
    for (std::size_t p = 0; p < size; ++p) numbers[p] = values[p % channels];
    EightRows result;
    unrolled<channels>([&](auto k) SYNCBN_INLINE_LAMBDA { result.part[k] = Lanes::load(numbers + k * lane_count); });
    return result;
  }
  SYNCBN_ALWAYS_INLINE static EightRows zero() noexcept {
    EightRows result;
    unrolled<channels>([&](auto k) SYNCBN_INLINE_LAMBDA { result.part[k] = Lanes::all(0); });
    return result;
  }
  // sums[c] of the lanes of each channel.
  SYNCBN_ALWAYS_INLINE void sums(double* out) const noexcept {
    double numbers[size];
    unrolled<channels>([&](auto k) SYNCBN_INLINE_LAMBDA { part[k].store(numbers + k * lane_count); });
    for (std::size_t c = 0; c < channels; ++c) {
      double lanes[lane_count];
      for (std::size_t lane = 0; lane < lane_count; ++lane) lanes[lane] = numbers[lane * channels + c];
      out[c] = sum_of_lanes(lanes);
    }
  }
};

// Calls visit(k, numbers of each operand) for the parts of n rows from the cursor on. After the last row there is
// rest[operand][channel].
template <std::size_t channels, class Storage, std::size_t Operands, class Visit>
SYNCBN_ALWAYS_INLINE void for_each_eight_rows(const Slab<Storage, Operands>& slab, const Cursor<Operands>& cursor,
                                              Index n, const double (&rest)[Operands][channels],
                                              const Visit& visit) noexcept {
  constexpr std::size_t size = EightRows<channels>::size;
  std::array<const Storage*, Operands> at;
  for (std::size_t o = 0; o < Operands; ++o) at[o] = slab.data[o] + cursor.offset(o);
  Index row = 0;
  for (; row + lane_count <= n; row += lane_count) {
    unrolled<channels>([&](auto k) SYNCBN_INLINE_LAMBDA {
      std::array<Lanes, Operands> lanes;
      unrolled<Operands>([&](auto o) SYNCBN_INLINE_LAMBDA {
        if (slab.asks_ahead) prefetch_beyond(at[o] + k * lane_count, bytes_ahead_of_walk);
        lanes[o] = Lanes::load(at[o] + k * lane_count);
      });
      visit(k, lanes);
    });
    unrolled<Operands>([&](auto o) SYNCBN_INLINE_LAMBDA { at[o] += size; });
  }
  if (row == n) return;
  double padded[Operands][size];
  for (std::size_t o = 0; o < Operands; ++o) {
    for (std::size_t p = 0; p < size; ++p) {
      padded[o][p] =
          p < static_cast<std::size_t>(n - row) * channels ? load_element<double>(at[o] + p) : rest[o][p % channels];
    }
  }
  unrolled<channels>([&](auto k) SYNCBN_INLINE_LAMBDA {
    std::array<Lanes, Operands> lanes;
    unrolled<Operands>([&](auto o) SYNCBN_INLINE_LAMBDA { lanes[o] = Lanes::load(padded[o] + k * lane_count); });
    visit(k, lanes);
  });
}

template <std::size_t channels, class Storage, class Put>
void moments_of_few_columns(const Slab<Storage, 1>& slab, const Cursor<1>& cursor, Index n, const Put& put) noexcept {
  using Rows = EightRows<channels>;
  const auto elements = static_cast<double>(n);
  double shift[1][channels];
  double total[channels];
  for (std::size_t c = 0; c < channels; ++c) {
    shift[0][c] = finite_or_zero(load_element<double>(slab.data[0] + cursor.offset(0) + c));
  }
  if constexpr (refines_shift<Storage>) {
    const Rows origin = Rows::repeating(shift[0]);
    Rows sum = Rows::zero();
    for_each_eight_rows<channels>(slab, cursor, n, shift,
                                  [&](auto k, const std::array<Lanes, 1>& x)
                                      SYNCBN_INLINE_LAMBDA { sum.part[k] = sum.part[k] + (x[0] - origin.part[k]); });
    sum.sums(total);
    for (std::size_t c = 0; c < channels; ++c) shift[0][c] = finite_or_zero(shift[0][c] + total[c] / elements);
  }
  const Rows origin = Rows::repeating(shift[0]);
  Rows sum = Rows::zero();
  Rows squares = Rows::zero();
  for_each_eight_rows<channels>(slab, cursor, n, shift,
                                [&](auto k, const std::array<Lanes, 1>& x) SYNCBN_INLINE_LAMBDA {
                                  const Lanes d = x[0] - origin.part[k];
                                  sum.part[k] = sum.part[k] + d;
                                  squares.part[k] = multiply_add(d, d, squares.part[k]);
                                });
  double total_squares[channels];
  sum.sums(total);
  squares.sums(total_squares);
  for (std::size_t c = 0; c < channels; ++c)
    put(static_cast<Index>(c), moments_about(shift[0][c], elements, total[c], total_squares[c]));
}

// Operand 0 is dy, 1 is x.
template <std::size_t channels, class Storage, class Put>
void gradient_sums_of_few_columns(const Slab<Storage, 2>& slab, const Cursor<2>& cursor, Index n, const double* mean,
                                  const Put& put) noexcept {
  using Rows = EightRows<channels>;
  double rest[2][channels];
  for (std::size_t c = 0; c < channels; ++c) {
    rest[0][c] = 0;
    rest[1][c] = mean[c];
  }
  const Rows origin = Rows::repeating(mean);
  Rows sum = Rows::zero();
  Rows centred = Rows::zero();
  for_each_eight_rows<channels>(slab, cursor, n, rest,
                                [&](auto k, const std::array<Lanes, 2>& lanes) SYNCBN_INLINE_LAMBDA {
                                  sum.part[k] = sum.part[k] + lanes[0];
                                  centred.part[k] = multiply_add(lanes[0], lanes[1] - origin.part[k], centred.part[k]);
                                });
  double sums[channels];
  double centred_sums[channels];
  sum.sums(sums);
  centred.sums(centred_sums);
  for (std::size_t c = 0; c < channels; ++c)
    put(static_cast<Index>(c), TwoSums{sums[c], centred_sum(centred_sums[c], mean[c])});
}

// Calls f with the number of channels as a constant. Returns false, if these functions are not for such a tensor.
template <std::size_t Operands, class F>
bool with_few_columns(const Geometry<Operands>& geometry, const F& f) noexcept {
  if (!geometry.dense_rows()) return false;
  if (geometry.channels == 2) return f(std::integral_constant<std::size_t, 2>()), true;
  if (geometry.channels == 3) return f(std::integral_constant<std::size_t, 3>()), true;
  if (geometry.channels == 4) return f(std::integral_constant<std::size_t, 4>()), true;
  return false;
}

}  // namespace cpu
}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0
