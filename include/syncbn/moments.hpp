#pragma once

#include <cmath>
#include <limits>

#include <syncbn/detail/config.hpp>
#include <syncbn/scalar_kind.hpp>

/// @file
/// The mathematics of one channel: pure functions of doubles, for host and device. docs/numerics.md derives the bounds.

namespace syncbn::inline v0 {

namespace detail {
// Outside of functions, where CUDA lets no constant be computed by the standard library.
template <class P>
inline constexpr double largest_number = static_cast<double>(std::numeric_limits<P>::max());
}  // namespace detail

// Whether products and sums are fused depends on the -m flags: code compiled with different ones has different names.
inline namespace SYNCBN_CPU_ISA {

/// @brief Count, mean and sum of squared deviations from the mean of one channel.
struct ChannelMoments {
  double count = 0;  ///< number of values; exact up to 2^53
  double mean = 0;   ///< @units{the values'}
  double m2 = 0;     ///< sum of (value - mean)^2; never negative @units{the values', squared}
};

/// @brief The moments of two disjoint sets of values together. Each division comes last, so that no compiler fuses the
/// products and every one computes the same bits.
/// @param a  one set, may be empty. @param b  the other, may be empty.
/// @return   their union's moments; exactly @p b when @p a is empty.
/// @source{Chan, Golub and LeVeque 1979}
SYNCBN_HOST_DEVICE inline ChannelMoments merge(ChannelMoments a, ChannelMoments b) noexcept {
  if (a.count == 0) return b;
  if (b.count == 0) return a;
  const double count = a.count + b.count;
  const double delta = b.mean - a.mean;
  // An infinite mean stays infinite: it does not become NaN because it came in two parts.
  const double mean = std::isfinite(delta) ? a.mean + delta * b.count / count : a.mean + b.mean;
  return {count, mean, (a.m2 + b.m2) + delta * delta * a.count * b.count / count};
}

/// @brief What travels in the first sum over ranks: both words add up by plain addition.
struct ChannelSums {
  double s1 = 0;  ///< n * mean
  double s2 = 0;  ///< M2 + n * mean^2
};

/// @brief Moments as sums. @param m  the moments on one rank. @return words to be added over ranks.
SYNCBN_HOST_DEVICE inline ChannelSums to_sums(ChannelMoments m) noexcept {
  const double s1 = m.count * m.mean;
  return {s1, m.m2 + s1 * m.mean};
}

/// @brief Sums as moments, M2 not yet protected from cancellation: see needs_centred_sums().
/// @param count  values on all ranks, more than 0. @param sums  added over all ranks. @return  the moments; m2 >= 0.
SYNCBN_HOST_DEVICE inline ChannelMoments from_sums(double count, ChannelSums sums) noexcept {
  // The division comes last here too: ranks of different compilers must decide alike about a second sum.
  const double m2 = sums.s2 - sums.s1 * sums.s1 / count;
  return {count, sums.s1 / count, m2 < 0 ? 0 : m2};
}

/// @brief Above this ratio of S2 to M2 the first sums are not accurate enough. @param kind  the format of the data.
/// @return 2^20, for f64 data 2^8.
SYNCBN_HOST_DEVICE constexpr double cancellation_limit(ScalarKind kind) noexcept {
  return kind == ScalarKind::f64 ? 256.0 : 1048576.0;
}

/// @brief Whether the mean dwarfs the deviation so much that a second sum, about the common mean, is due. A function of
/// reduced words alone, hence the same answer on every rank. Channels of zeros need none; channels with an infinity or
/// a NaN would not profit. Squares that underflow tell nothing.
/// @param count  values on all ranks. @param sums  added over all ranks. @param limit  cancellation_limit().
/// @return true if centred sums are needed.
SYNCBN_HOST_DEVICE inline bool needs_centred_sums(double count, ChannelSums sums, double limit) noexcept {
  if (count == 0 || sums.s1 == 0 || !std::isfinite(sums.s1)) return false;
  constexpr double smallest_normal = 0x1p-1022;
  if (sums.s2 < smallest_normal) return true;
  return !(sums.s2 <= limit * from_sums(count, sums).m2);
}

/// @brief One rank's part of the second sum: deviation of its mean, and its squares about the common mean. No
/// cancellation: the second word has no negative terms.
/// @param local  this rank's moments. @param mean  the mean by from_sums(). @return words to be added over ranks.
SYNCBN_HOST_DEVICE inline ChannelSums to_centred_sums(ChannelMoments local, double mean) noexcept {
  if (local.count == 0) return {};
  const double deviation = local.mean - mean;
  return {local.count * deviation, local.m2 + local.count * deviation * deviation};
}

/// @brief Centred sums as moments. @param count  values on all ranks. @param mean  the mean by from_sums().
/// @param sums   centred sums added over all ranks. @return  the moments, m2 >= 0.
SYNCBN_HOST_DEVICE inline ChannelMoments from_centred_sums(double count, double mean, ChannelSums sums) noexcept {
  const double shift = sums.s1 / count;
  const double m2 = sums.s2 - sums.s1 * shift;
  return {count, mean + shift, m2 < 0 ? 0 : m2};
}

/// @brief 1 / sqrt(variance + eps); 0 where both are 0, so that a constant channel gives the bias and no NaN.
/// @param variance  biased. @param eps  added inside the root. @return the factor of (x - mean).
/// @source{Ioffe and Szegedy 2015, Algorithm 1; the special case is PyTorch's}
SYNCBN_HOST_DEVICE inline double batch_inverse_deviation(double variance, double eps) noexcept {
  return variance == 0 && eps == 0 ? 0.0 : 1 / std::sqrt(variance + eps);
}

/// @brief (1 - momentum) * running + momentum * value.
/// @param running  the old value. @param value  this batch's. @param momentum  weight of this batch. @return the new.
SYNCBN_HOST_DEVICE inline double running_update(double running, double value, double momentum) noexcept {
  return (1 - momentum) * running + momentum * value;
}

/// @brief A number in the parameter type, its largest one where a finite number is beyond: an infinite scale would make
/// NaN of a deviation of 0. @tparam P  float or double. @param value  any. @return the number.
template <class P>
SYNCBN_HOST_DEVICE inline P saturate(double value) noexcept {
  constexpr double most = detail::largest_number<P>;
  if (std::isfinite(value) && std::abs(value) > most) return static_cast<P>(std::copysign(most, value));
  return static_cast<P>(value);
}

/// @brief y = (x - mean) * scale + offset in the parameter type P.
/// @tparam P  float or double.
template <class P>
struct NormalizeCoefficients {
  P mean;    ///< the mean rounded to P
  P scale;   ///< weight / sqrt(variance + eps)
  P offset;  ///< bias - (mean - rounded mean) * scale

  /// @brief The value for @p x. @param x  an activation. @return the normalized activation.
  SYNCBN_HOST_DEVICE P operator()(P x) const noexcept { return (x - mean) * scale + offset; }
};

/// @brief Coefficients that give exactly @p bias for x == mean, at any magnitude.
/// @param mean  of the channel. @param inverse_deviation  its 1 / sqrt(variance + eps).
/// @param weight  1 where there is none. @param bias  0 where there is none. @return the coefficients.
template <class P>
SYNCBN_HOST_DEVICE inline NormalizeCoefficients<P> normalize_coefficients(double mean, double inverse_deviation,
                                                                          double weight, double bias) noexcept {
  const P rounded = static_cast<P>(mean);
  const double scale = weight * inverse_deviation;
  const double rest = mean - static_cast<double>(rounded);
  double scaled_rest = rest * scale;
  SYNCBN_ROUND_HERE(scaled_rest);
  // Without the test an infinite scale (a running variance of 0 and eps = 0) would make 0 * inf of a rest that is 0.
  const double offset = rest == 0 ? bias : bias - scaled_rest;
  return {rounded, saturate<P>(scale), saturate<P>(offset)};
}

/// @brief dx = ((dy - dy_mean) - (x - mean) * slope) * scale + offset in the parameter type P.
/// @tparam P  float or double.
template <class P>
struct PropagateCoefficients {
  P dy_mean;  ///< sum(dy) / n, rounded
  P mean;     ///< mean of x, rounded
  P slope;    ///< sum(dy * (x - mean)) / (n * (variance + eps))
  P scale;    ///< weight / sqrt(variance + eps)
  P offset;   ///< what the rounding of the two means left

  /// @brief The input gradient. @param dy  gradient of the output. @param x  activation. @return gradient of x.
  SYNCBN_HOST_DEVICE P operator()(P dy, P x) const noexcept {
    return ((dy - dy_mean) - (x - mean) * slope) * scale + offset;
  }
};

/// @brief Coefficients of the input gradient where the batch's own statistics normalized it.
/// @param mean  of x. @param inverse_deviation  of x. @param weight  1 where there is none.
/// @param mean_dy  sum(dy) / n. @param mean_dy_centred  sum(dy * (x - mean)) / n. @return the coefficients.
/// @source{Ioffe and Szegedy 2015, section 3, with the terms of dx collected}
template <class P>
SYNCBN_HOST_DEVICE inline PropagateCoefficients<P> propagate_coefficients(double mean, double inverse_deviation,
                                                                          double weight, double mean_dy,
                                                                          double mean_dy_centred) noexcept {
  const double slope = mean_dy_centred * inverse_deviation * inverse_deviation;
  const double scale = weight * inverse_deviation;
  const P dy_rounded = static_cast<P>(mean_dy);
  const P rounded = static_cast<P>(mean);
  const double dy_rest = mean_dy - static_cast<double>(dy_rounded);
  const double rest = mean - static_cast<double>(rounded);
  double sloped_rest = rest * slope;
  SYNCBN_ROUND_HERE(sloped_rest);
  return {dy_rounded, rounded, saturate<P>(slope), saturate<P>(scale), saturate<P>((sloped_rest - dy_rest) * scale)};
}

}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0
