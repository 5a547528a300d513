#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

/// @file
/// @brief How far the library's results may be from the exact ones: every tolerance of the tests, and why.
///
/// Notation. u is the unit roundoff of double, 2^-53; v that of the parameter type; w that of the elements' format. One
/// operation of double errs by a factor 1 + d with |d| <= u. k of them in a row err by a factor 1 + d with |d| <=
/// gamma(k) = k u / (1 - k u) (Higham, Accuracy and Stability of Numerical Algorithms, 3.1), and gamma(j) + gamma(k) <=
/// gamma(j + k). A fused multiply-add has one rounding less; the bounds hold with and without.
///
/// The facts about a channel (mean m, M2, largest deviation R = max |x - m|) are those of the oracle, whose own error
/// is that of long double and is covered by `oracle()`.

namespace syncbn_test::bounds {

using Number = long double;

/// @brief Largest relative error of one rounding to T.
template <class T>
inline constexpr Number unit_roundoff = std::numeric_limits<T>::epsilon() / Number{2};

inline constexpr Number u = unit_roundoff<double>;

/// @brief Relative error of k roundings to double in a row.
inline Number gamma(Number k) { return k * u / (1 - k * u); }

/// @brief Relative error of the oracle's sums of n terms of one sign: n - 1 roundings to long double, and a few.
inline Number oracle(Number n) { return (n + 8) * unit_roundoff<Number>; }

// ---- The grid of sums -----------------------------------------------------------------------------------------------
//
// A channel's n elements are summed in blocks of 2048, a block in 8 lanes and a tree over them. Blocks are added in at
// most 16 segments, segments in order.

inline constexpr Number block_elements = 2048;

inline Number blocks(Number n) { return std::ceil(n / block_elements); }
inline Number segments(Number n) { return std::min(blocks(n), Number{16}); }

/// @brief Additions that an element passes within its block: those of its lane, and three of the tree.
inline Number additions_in_block(Number n) { return std::ceil(std::min(n, block_elements) / 8) + 3; }

/// @brief Times that a block's sum is merged into, or with, that of other blocks; 0 where there is one block.
inline Number merges(Number n) {
  return n <= block_elements ? 0 : std::ceil(blocks(n) / segments(n)) - 1 + segments(n) - 1;
}

// ---- Moments --------------------------------------------------------------------------------------------------------

/// @brief What a bound is made from; exact.
struct ChannelFacts {
  Number count = 0;
  Number mean = 0;
  Number m2 = 0;
  Number deviation = 0;  ///< the largest |x - mean|

  Number variance() const { return count == 0 ? 0 : m2 / count; }
};

/// @brief The mean of two sets by merge(), their moments being exact: three roundings of delta * n_b / n, one of the
/// sum.
inline Number merged_mean(Number delta_share, Number mean) {
  return gamma(4) * std::abs(delta_share) + u * std::abs(mean);
}

/// @brief M2 of two sets by merge(), relative: no term is negative, and none passes more than 7 roundings (delta twice,
/// three products, a quotient, a sum).
inline Number merged_m2() { return gamma(7); }

/// @brief Error of a block's mean. About a shift s within the range of the data, |x - s| <= 2R: one rounding each, the
/// additions, a quotient; then s is added back.
inline Number block_mean(const ChannelFacts& f) {
  return gamma(additions_in_block(f.count) + 2) * 2 * f.deviation + u * (std::abs(f.mean) + f.deviation);
}

/// @brief Error of the mean. Merging takes convex combinations of the means: what they err by does not grow, and each
/// merge adds merged_mean() with |delta| <= 2R.
inline Number mean(const ChannelFacts& f) {
  return block_mean(f) + merges(f.count) * (gamma(4) * 2 * f.deviation + u * (std::abs(f.mean) + f.deviation)) +
         oracle(f.count) * (std::abs(f.mean) + f.deviation);
}

/// @brief Error of M2, given Q, the sum over blocks of the squares about the block's shift.
///
/// A block: squares and their additions err by gamma(k + 3) Q, k being the additions; sum^2 / n, with |sum| <= sqrt(n
/// Q), by gamma(2k + 4) Q; and their difference by u Q. Merging: merged_m2() each time; and means that err by E make
/// delta err by 2E, which adds, weighted by n_a n_b / n, at most 4E sqrt(3 n M2) + 12 E^2 n in all (Cauchy and Schwarz;
/// each level of merging has weights of sum n at most, and there are three: blocks, segments, a running total).
inline Number m2_of_squares(const ChannelFacts& f, Number squares) {
  const Number within = gamma(3 * additions_in_block(f.count) + 8) * squares;
  const Number between = merges(f.count) == 0 ? 0 : mean(f);
  return (within + gamma(7 * merges(f.count)) * f.m2) * (1 + gamma(7 * merges(f.count))) +
         4 * between * std::sqrt(3 * f.count * f.m2) + 12 * between * between * f.count + oracle(f.count) * f.m2;
}

/// @brief Error of M2 of data of 16 or 32 bits: the shift is the block's first element, at most 2R from any other; and
/// since that element is part of M2 itself, a block of b has Q <= b M2, whatever the data (docs/numerics.md, One
/// block).
inline Number m2_about_first(const ChannelFacts& f) {
  return m2_of_squares(f, std::min(f.count * 4 * f.deviation * f.deviation, std::min(f.count, block_elements) * f.m2));
}

/// @brief Error of M2 of f64 data: the shift is the block's mean but for block_mean(), so that Q <= M2 + n
/// block_mean()^2. Unlike m2_about_first() this is small beside M2 whatever the first element is.
inline Number m2_about_mean(const ChannelFacts& f) {
  return m2_of_squares(f, f.m2 + f.count * block_mean(f) * block_mean(f));
}

// ---- Sums that travel -----------------------------------------------------------------------------------------------

/// @brief Error of M2 after to_sums() on P ranks, P - 1 additions in any order, from_sums(), relative to S2.
///
/// S2 passes 3 + P roundings. S1 errs by gamma(P + 1) sum |n_r mean_r| <= gamma(P + 1) sqrt(n S2), hence S1^2 / n by
/// 2 gamma(P + 1) S2, and 3 roundings more; the difference 1.
inline Number m2_by_sums(Number ranks) { return gamma(3 * ranks + 9); }

/// @brief Error of the mean by from_sums(), relative to sqrt(S2 / n).
inline Number mean_by_sums(Number ranks) { return gamma(ranks + 2); }

/// @brief Error of M2 by centred sums, relative to M2 + n t^2, t being what the first mean errs by: as m2_by_sums(),
/// with the two roundings of a deviation more in each word.
inline Number m2_by_centred_sums(Number ranks) { return gamma(3 * ranks + 16); }

// ---- Passes ---------------------------------------------------------------------------------------------------------

/// @brief The formats that take part in an elementwise pass: parameter type P, and the elements' own.
struct Formats {
  Number v;                     ///< unit roundoff of P
  Number smallest;              ///< smallest positive P: what an underflow may lose
  Number w = 0;                 ///< unit roundoff of the elements; 0 where they are P or wider: no further rounding
  Number smallest_element = 0;  ///< half the smallest positive element, likewise: an underflow's rounding
};

/// @brief How far the moments that a pass uses may be off, and its parameters.
struct PassFacts {
  ChannelFacts channel;
  Number mean_error = 0;
  Number m2_error = 0;
  Number eps = 0;
  Number weight = 1;
  Number bias = 0;

  Number inverse_deviation() const { return 1 / std::sqrt(channel.variance() + eps); }
  Number scale() const { return std::abs(weight) * inverse_deviation(); }
  /// Relative error of 1 / sqrt(variance + eps): the variance's two (M2, quotient), a sum; the root halves them (not
  /// used); root and quotient.
  Number inverse_deviation_error() const {
    return (m2_error / channel.count + u * channel.variance()) / (channel.variance() + eps) + gamma(3);
  }
};

// Roundings to P that are products of others.
inline Number second_order(const Formats& formats) { return 1 + 16 * formats.v; }

inline Number stored(const Formats& formats, Number error, Number result) {
  return error + formats.w * (std::abs(result) + error) + formats.smallest_element;
}

/// @brief Error of y = (x - mean_hi) * scale + offset, offset = bias - (mean - mean_hi) * scale.
///
/// x - mean_hi: one rounding; scale: its own error, one to double, one to P; the product one: each relative to |x -
/// mean_hi| * scale. The mean's error is scaled. offset <= |bias| + v |mean| scale: one rounding to P, and those of
/// double; the sum one of y. Nothing here grows with mean / deviation but v^2 |mean| scale.
inline Number normalized(const PassFacts& f, const Formats& formats, Number x, Number y) {
  const Number v = formats.v;
  const Number rest = v * (std::abs(f.channel.mean) + f.mean_error);
  const Number distance = std::abs(x - f.channel.mean) + rest + f.mean_error;
  const Number scale_error = f.inverse_deviation_error() + u;
  const Number offset = std::abs(f.bias) + rest * f.scale();
  const Number error = f.scale() * distance * (scale_error + 3 * v) + f.scale() * f.mean_error +
                       offset * (v + gamma(4)) + rest * f.scale() * scale_error + v * std::abs(y) +
                       formats.smallest * (f.scale() + distance + 3);
  return stored(formats, error * second_order(formats), y);
}

/// @brief Sums over the gradient of a channel; exact.
struct GradientFacts {
  Number dy = 0;               ///< sum dy
  Number dy_size = 0;          ///< sum |dy|
  Number dy_centred = 0;       ///< sum dy * (x - mean)
  Number dy_centred_size = 0;  ///< sum |dy| * |x - mean|
};

/// @brief Additions that a term of a gradient's sum passes: in its block, over blocks, over segments, into the total.
inline Number additions(Number n) {
  return additions_in_block(n) + std::ceil(blocks(n) / std::max(segments(n), Number{1})) + segments(n) + 1;
}

/// @brief Error of sum dy.
inline Number gradient_sum(Number count, const GradientFacts& g) {
  return (gamma(additions(count)) + oracle(count)) * g.dy_size;
}

/// @brief Error of sum dy * (x - mean), the mean being exact: two roundings of each term more.
inline Number centred_gradient_sum(Number count, const GradientFacts& g) {
  return (gamma(additions(count) + 2) + oracle(count)) * g.dy_centred_size;
}

/// @brief As above with a mean that errs by E: every term moves by E |dy| before it is rounded, the sum by E |sum dy|.
inline Number centred_gradient_sum(const PassFacts& f, const GradientFacts& g) {
  return centred_gradient_sum(f.channel.count, g) +
         f.mean_error * (std::abs(g.dy) + gamma(additions(f.channel.count) + 2) * g.dy_size);
}

/// @brief Error of the weight's gradient, sum dy * (x - mean) / deviation, rounded to P.
inline Number weight_gradient(const PassFacts& f, const GradientFacts& g, const Formats& formats) {
  const Number exact = std::abs(g.dy_centred) * f.inverse_deviation();
  const Number error =
      centred_gradient_sum(f, g) * f.inverse_deviation() + exact * (f.inverse_deviation_error() + gamma(2));
  return (error + formats.v * (exact + error)) * second_order(formats) + formats.smallest;
}

/// @brief Error of the bias's gradient, sum dy rounded to P.
inline Number bias_gradient(const PassFacts& f, const GradientFacts& g, const Formats& formats) {
  const Number error = gradient_sum(f.channel.count, g);
  return error + formats.v * (std::abs(g.dy) + error) + formats.smallest;
}

/// @brief Error of dx = ((dy - a) - (x - mean_hi) * slope) * scale + offset, a the rounded mean of dy, the offset what
/// rounding a and the mean left over.
///
/// Both differences: one rounding. slope: twice the error of the inverse deviation, that of the sum in it, three
/// roundings to double and one to P; its product one; their difference one; scale and the product with it as in
/// normalized(); the offset, at most v (|mean| |slope| + |a|) * scale, one; the sum one of dx. Errors of the mean and
/// of a are scaled.
inline Number propagated(const PassFacts& f, const GradientFacts& g, const Formats& formats, Number dy, Number x,
                         Number dx) {
  const Number v = formats.v;
  const Number n = f.channel.count;
  const Number mean_dy = std::abs(g.dy) / n;
  const Number mean_dy_error = gradient_sum(n, g) / n + u * mean_dy;
  const Number slope = std::abs(g.dy_centred) / n * f.inverse_deviation() * f.inverse_deviation();
  const Number slope_error = centred_gradient_sum(f, g) / n * f.inverse_deviation() * f.inverse_deviation() +
                             slope * (2 * f.inverse_deviation_error() + gamma(3));
  const Number rest = v * (std::abs(f.channel.mean) + f.mean_error);
  const Number dy_rest = v * (mean_dy + mean_dy_error);
  const Number distance = std::abs(x - f.channel.mean) + rest + f.mean_error;
  const Number gradient = std::abs(dy - g.dy / n) + dy_rest + mean_dy_error;
  const Number offset = rest * slope + dy_rest;
  const Number bracket = v * gradient + mean_dy_error + distance * (slope_error + 3 * v * slope) +
                         f.mean_error * slope + v * (gradient + distance * slope) + rest * slope_error +
                         offset * (v + gamma(4)) +
                         (gradient + distance * slope) * (f.inverse_deviation_error() + u + 2 * v);
  const Number error = f.scale() * bracket + v * std::abs(dx) +
                       formats.smallest * (f.scale() * (distance + 2) + gradient + distance * slope + 3);
  return stored(formats, error * second_order(formats), dx);
}

}  // namespace syncbn_test::bounds
