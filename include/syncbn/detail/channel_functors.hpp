#pragma once

#include <cstdint>

#include <syncbn/moments.hpp>
#include <syncbn/tensor_view.hpp>

// The mathematics of moments.hpp applied to channel c of arrays: functors that any backend can run, on any device.
// Named types rather than lambdas, so that device compilers take them without extensions.

namespace syncbn::inline v0::detail {
inline namespace SYNCBN_CPU_ISA {

// An element of an optional parameter; `otherwise` where there is none.
template <class P>
SYNCBN_HOST_DEVICE inline double element_or(const P* values, Index stride, Index c, double otherwise) noexcept {
  return values == nullptr ? otherwise : static_cast<double>(values[c * stride]);
}

struct FinalizeMoments {
  const double *count, *mean, *m2;
  double eps;
  double *count_out, *mean_out, *variance, *inverse_deviation;

  SYNCBN_HOST_DEVICE void operator()(Index c) const noexcept { (*this)(c, {*count, mean[c], m2[c]}); }
  // Of moments that are at hand: nothing is read that other channels' moments are being written to.
  SYNCBN_HOST_DEVICE void operator()(Index c, ChannelMoments moments) const noexcept {
    if (c == 0) *count_out = moments.count;
    mean_out[c] = moments.mean;
    variance[c] = moments.count == 0 ? 0 : moments.m2 / moments.count;
    inverse_deviation[c] = batch_inverse_deviation(variance[c], eps);
  }
};

template <class P>
struct UseRunning {
  const P* running_mean;
  Index mean_stride;
  const P* running_var;
  Index var_stride;
  double eps;
  double *count, *mean, *variance, *inverse_deviation;

  SYNCBN_HOST_DEVICE void operator()(Index c) const noexcept {
    if (c == 0) *count = 0;
    mean[c] = static_cast<double>(running_mean[c * mean_stride]);
    variance[c] = static_cast<double>(running_var[c * var_stride]);
    inverse_deviation[c] = 1 / std::sqrt(variance[c] + eps);
  }
};

// Element i of an array becomes a value.
template <class T>
struct Fill {
  T* values;
  T value;
  SYNCBN_HOST_DEVICE void operator()(Index i) const noexcept { values[i] = value; }
};

// A batch that had values on some rank counts.
struct CountBatch {
  const double* count;  // null if it had
  std::int64_t* batches;
  SYNCBN_HOST_DEVICE void operator()(Index) const noexcept {
    if (count == nullptr || *count > 0) ++*batches;
  }
};

template <class P>
struct UpdateRunning {
  const double *count, *mean, *variance;
  double momentum;
  const std::int64_t* batches;  // before this one, for a cumulative average; otherwise null
  P* running_mean;
  Index mean_stride;
  P* running_var;
  Index var_stride;

  SYNCBN_HOST_DEVICE void operator()(Index c) const noexcept {
    if (*count < 2) return;
    const double weight = batches == nullptr ? momentum : 1 / static_cast<double>(*batches + 1);
    const double unbiased = variance[c] * *count / (*count - 1);
    if (running_mean != nullptr) {
      P& value = running_mean[c * mean_stride];
      value = static_cast<P>(running_update(static_cast<double>(value), mean[c], weight));
    }
    if (running_var != nullptr) {
      P& value = running_var[c * var_stride];
      value = static_cast<P>(running_update(static_cast<double>(value), unbiased, weight));
    }
  }
};

template <class P>
struct NormalizeChannel {
  const double *mean, *inverse_deviation;
  const P* weight;
  Index weight_stride;
  const P* bias;
  Index bias_stride;

  SYNCBN_HOST_DEVICE NormalizeCoefficients<P> operator()(Index c) const noexcept {
    return normalize_coefficients<P>(mean[c], inverse_deviation[c], element_or(weight, weight_stride, c, 1),
                                     element_or(bias, bias_stride, c, 0));
  }
};

// Normalization by running statistics, straight from them: inference needs no memory of its own.
template <class P>
struct InferChannel {
  const P* running_mean;
  Index mean_stride;
  const P* running_var;
  Index var_stride;
  double eps;
  const P* weight;
  Index weight_stride;
  const P* bias;
  Index bias_stride;

  SYNCBN_HOST_DEVICE NormalizeCoefficients<P> operator()(Index c) const noexcept {
    const double variance = static_cast<double>(running_var[c * var_stride]);
    return normalize_coefficients<P>(static_cast<double>(running_mean[c * mean_stride]), 1 / std::sqrt(variance + eps),
                                     element_or(weight, weight_stride, c, 1), element_or(bias, bias_stride, c, 0));
  }
};

struct FinalizeGradient {
  const double *count, *dy, *dy_centred;
  double *mean_dy, *mean_dy_centred;

  SYNCBN_HOST_DEVICE void operator()(Index c) const noexcept {
    mean_dy[c] = *count == 0 ? 0 : dy[c] / *count;
    mean_dy_centred[c] = *count == 0 ? 0 : dy_centred[c] / *count;
  }
};

template <class P>
struct AddParameterGradients {
  const double *count, *dy, *dy_centred, *inverse_deviation;
  P* weight_grad;
  Index weight_stride;
  P* bias_grad;
  Index bias_stride;

  SYNCBN_HOST_DEVICE void operator()(Index c) const noexcept {
    if (*count < 0) return;  // of an exchange that went wrong
    if (weight_grad != nullptr) {
      P& value = weight_grad[c * weight_stride];
      value = static_cast<P>(static_cast<double>(value) + dy_centred[c] * inverse_deviation[c]);
    }
    if (bias_grad != nullptr) {
      P& value = bias_grad[c * bias_stride];
      value = static_cast<P>(static_cast<double>(value) + dy[c]);
    }
  }
};

template <class P>
struct PropagateChannel {
  const double *mean, *inverse_deviation;
  const P* weight;
  Index weight_stride;
  const double *mean_dy, *mean_dy_centred;

  SYNCBN_HOST_DEVICE PropagateCoefficients<P> operator()(Index c) const noexcept {
    return propagate_coefficients<P>(mean[c], inverse_deviation[c], element_or(weight, weight_stride, c, 1), mean_dy[c],
                                     mean_dy_centred[c]);
  }
};

// dx = dy * scale, as a normalization about 0.
template <class P>
struct ScaleChannel {
  const double* inverse_deviation;
  const P* weight;
  Index weight_stride;

  SYNCBN_HOST_DEVICE NormalizeCoefficients<P> operator()(Index c) const noexcept {
    return {P{0}, saturate<P>(element_or(weight, weight_stride, c, 1) * inverse_deviation[c]), P{0}};
  }
};

// ---- Words of an exchange --------------------------------------------------------------------------------------------

struct PackMoments {
  const double *count, *mean, *m2;
  double* words;

  SYNCBN_HOST_DEVICE void operator()(Index c) const noexcept {
    const ChannelSums sums = to_sums({*count, mean[c], m2[c]});
    words[2 * c] = sums.s1;
    words[2 * c + 1] = sums.s2;
  }
};

// In place of M2 until the second sum: it has no negative values.
inline constexpr double awaits_centred_sums = -1;

struct UnpackMoments {
  double count;
  const double* words;
  double limit;  // of cancellation
  double *count_out, *mean, *m2;

  SYNCBN_HOST_DEVICE void operator()(Index c) const noexcept {
    if (c == 0) *count_out = count;
    const ChannelSums sums{words[2 * c], words[2 * c + 1]};
    const ChannelMoments m = count == 0 ? ChannelMoments{} : from_sums(count, sums);
    mean[c] = m.mean;
    m2[c] = needs_centred_sums(count, sums, limit) ? awaits_centred_sums : m.m2;
  }
};

struct PackCentredMoments {
  const double *count, *mean, *m2;  // this rank's
  const double* common_mean;
  double* words;

  SYNCBN_HOST_DEVICE void operator()(Index c) const noexcept {
    const ChannelSums sums = to_centred_sums({*count, mean[c], m2[c]}, common_mean[c]);
    words[2 * c] = sums.s1;
    words[2 * c + 1] = sums.s2;
  }
};

// Only for channels that need it: which others share a frame with them must change nothing.
struct UnpackCentredMoments {
  double count;
  const double* words;
  double *mean, *m2;

  SYNCBN_HOST_DEVICE void operator()(Index c) const noexcept {
    if (m2[c] != awaits_centred_sums) return;
    const ChannelMoments m = from_centred_sums(count, mean[c], {words[2 * c], words[2 * c + 1]});
    mean[c] = m.mean;
    m2[c] = m.m2;
  }
};

struct CopyPairs {
  const double *first, *second;
  double *first_out, *second_out;
  Index stride, stride_out;

  SYNCBN_HOST_DEVICE void operator()(Index c) const noexcept {
    first_out[c * stride_out] = first[c * stride];
    second_out[c * stride_out] = second[c * stride];
  }
};

}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0::detail
