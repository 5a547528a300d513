/// @file
/// @brief Batch normalization in long double, written for plainness: what the library's results are judged by.
///
/// It includes nothing of the library. Activations are in logical (N, C, S) order, S being the product of the spatial
/// extents; an empty vector stands for an absent weight, bias or running buffer.
#pragma once

#include <cmath>
#include <cstddef>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace syncbn_test::oracle {

using Number = long double;
using Numbers = std::vector<Number>;

/// @brief Converts values of any arithmetic type.
template <class Value>
Numbers numbers(const std::vector<Value>& values) {
  return Numbers(values.begin(), values.end());
}

/// @brief Extents of an activation tensor (N, C, S).
struct Shape {
  std::size_t samples = 0;
  std::size_t channels = 0;
  std::size_t positions = 1;

  std::size_t elements() const { return samples * channels * positions; }
  std::size_t elements_per_channel() const { return samples * positions; }
};

/// @brief Moments of each channel over all elements of all ranks.
struct Statistics {
  Numbers mean;            // (C)
  Numbers sum_of_squares;  // (C), of the deviations from the mean
  std::size_t elements_per_channel = 0;

  /// @brief What normalizes.
  Number biased_variance(std::size_t channel) const {
    return sum_of_squares[channel] / static_cast<Number>(elements_per_channel);
  }

  /// @brief What enters the running statistics.
  Number unbiased_variance(std::size_t channel) const {
    return sum_of_squares[channel] / static_cast<Number>(elements_per_channel - 1);
  }
};

/// @brief Gradients of a loss; weight and bias are filled whether or not the layer has them.
struct Gradients {
  Numbers x;       // (N, C, S)
  Numbers weight;  // (C)
  Numbers bias;    // (C)
};

namespace detail {

inline void require_size(const Numbers& values, std::size_t size, const char* what) {
  if (values.size() != size) {
    throw std::invalid_argument(std::string("oracle: ") + what + " has " + std::to_string(values.size()) +
                                " values, expected " + std::to_string(size));
  }
}

inline void require_absent_or_size(const Numbers& values, std::size_t size, const char* what) {
  if (!values.empty()) require_size(values, size, what);
}

// Calls visit(index, channel) for each element, in memory order.
template <class Visit>
void for_each_element(const Shape& shape, Visit visit) {
  std::size_t index = 0;
  for (std::size_t n = 0; n < shape.samples; ++n) {
    for (std::size_t c = 0; c < shape.channels; ++c) {
      for (std::size_t s = 0; s < shape.positions; ++s) visit(index++, c);
    }
  }
}

inline Number value_or(const Numbers& values, std::size_t channel, Number absent) {
  return values.empty() ? absent : values[channel];
}

// 1 / sqrt(biased variance + eps); 0 for a constant channel with eps = 0 (the output is then the bias, not a NaN) and
// for a channel without elements.
inline Numbers batch_scales(const Statistics& statistics, Number eps) {
  Numbers scales(statistics.mean.size());
  for (std::size_t c = 0; c < scales.size() && statistics.elements_per_channel != 0; ++c) {
    const Number variance = statistics.biased_variance(c);
    if (variance != 0 || eps != 0) scales[c] = 1 / std::sqrt(variance + eps);
  }
  return scales;
}

inline Numbers running_scales(const Numbers& running_var, Number eps) {
  Numbers scales = running_var;
  for (Number& scale : scales) scale = 1 / std::sqrt(scale + eps);
  return scales;
}

// y = (x - mean) * scale * weight + bias.
inline Numbers affine_map(const Numbers& x, const Shape& shape, const Numbers& mean, const Numbers& scale,
                          const Numbers& weight, const Numbers& bias) {
  require_size(x, shape.elements(), "x");
  require_absent_or_size(weight, shape.channels, "weight");
  require_absent_or_size(bias, shape.channels, "bias");
  Numbers y(x.size());
  for_each_element(shape, [&](std::size_t i, std::size_t c) {
    y[i] = (x[i] - mean[c]) * scale[c] * value_or(weight, c, 1) + value_or(bias, c, 0);
  });
  return y;
}

// The two sums of every backward pass, per channel: of dy, and of dy * (x - mean).
struct GradientSums {
  Numbers dy;          // (C)
  Numbers dy_centred;  // (C)
};

inline GradientSums gradient_sums(const Numbers& x, const Numbers& dy, const Shape& shape, const Numbers& mean) {
  require_size(x, shape.elements(), "x");
  require_size(dy, shape.elements(), "dy");
  GradientSums sums{Numbers(shape.channels), Numbers(shape.channels)};
  for_each_element(shape, [&](std::size_t i, std::size_t c) {
    sums.dy[c] += dy[i];
    sums.dy_centred[c] += dy[i] * (x[i] - mean[c]);
  });
  return sums;
}

}  // namespace detail

/// @brief Mean and sum of squared deviations of each channel, in two passes.
///
/// Both passes work on differences from the channel's first element, so a constant channel has variance 0 exactly and a
/// mean that is large beside the deviation costs no digits. Without elements both are 0.
inline Statistics statistics(const Numbers& x, const Shape& shape) {
  detail::require_size(x, shape.elements(), "x");
  Statistics result{Numbers(shape.channels), Numbers(shape.channels), shape.elements_per_channel()};
  if (x.empty()) return result;
  const Number count = static_cast<Number>(result.elements_per_channel);
  Numbers first(shape.channels), shift(shape.channels), residue(shape.channels);
  for (std::size_t c = 0; c < shape.channels; ++c) first[c] = x[c * shape.positions];
  detail::for_each_element(shape, [&](std::size_t i, std::size_t c) { shift[c] += (x[i] - first[c]) / count; });
  detail::for_each_element(shape, [&](std::size_t i, std::size_t c) {
    const Number deviation = x[i] - first[c] - shift[c];
    result.sum_of_squares[c] += deviation * deviation;
    residue[c] += deviation;
  });
  for (std::size_t c = 0; c < shape.channels; ++c) {  // what rounding left in the mean is taken out of both results
    result.sum_of_squares[c] -= residue[c] * residue[c] / count;
    result.mean[c] = first[c] + (shift[c] + residue[c] / count);
  }
  return result;
}

/// @brief y = (x - mean) / sqrt(biased variance + eps) * weight + bias with given moments.
inline Numbers normalize(const Numbers& x, const Shape& shape, const Statistics& moments, const Numbers& weight,
                         const Numbers& bias, Number eps) {
  return detail::affine_map(x, shape, moments.mean, detail::batch_scales(moments, eps), weight, bias);
}

/// @brief y = (x - running_mean) / sqrt(running_var + eps) * weight + bias.
inline Numbers inference(const Numbers& x, const Shape& shape, const Numbers& running_mean, const Numbers& running_var,
                         const Numbers& weight, const Numbers& bias, Number eps) {
  detail::require_size(running_mean, shape.channels, "running_mean");
  detail::require_size(running_var, shape.channels, "running_var");
  return detail::affine_map(x, shape, running_mean, detail::running_scales(running_var, eps), weight, bias);
}

/// @brief The share of the new batch in the running statistics; without momentum, that of a cumulative average.
///
/// batches_tracked is the counter after this batch was counted.
inline Number update_factor(std::optional<Number> momentum, long long batches_tracked) {
  return momentum ? *momentum : 1 / static_cast<Number>(batches_tracked);
}

/// @brief running <- (1 - factor) * running + factor * new, the new variance being the unbiased one.
///
/// A batch without elements changes nothing. An empty vector is an absent buffer and stays empty.
inline void update_running(Numbers& running_mean, Numbers& running_var, const Statistics& moments, Number factor) {
  if (moments.elements_per_channel == 0) return;
  if (moments.elements_per_channel == 1) throw std::invalid_argument("oracle: one value per channel has no variance");
  detail::require_absent_or_size(running_mean, moments.mean.size(), "running_mean");
  detail::require_absent_or_size(running_var, moments.mean.size(), "running_var");
  for (std::size_t c = 0; c < running_mean.size(); ++c) {
    running_mean[c] = (1 - factor) * running_mean[c] + factor * moments.mean[c];
  }
  for (std::size_t c = 0; c < running_var.size(); ++c) {
    running_var[c] = (1 - factor) * running_var[c] + factor * moments.unbiased_variance(c);
  }
}

/// @brief Backward through normalize(): the moments depend on x.
inline Gradients backward_batch(const Numbers& x, const Numbers& dy, const Shape& shape, const Statistics& moments,
                                const Numbers& weight, Number eps) {
  const detail::GradientSums sums = detail::gradient_sums(x, dy, shape, moments.mean);
  Gradients result{Numbers(x.size()), Numbers(shape.channels), sums.dy};
  const Number count = static_cast<Number>(moments.elements_per_channel);
  const Numbers scale = detail::batch_scales(moments, eps);
  for (std::size_t c = 0; c < shape.channels; ++c) result.weight[c] = scale[c] * sums.dy_centred[c];
  detail::for_each_element(shape, [&](std::size_t i, std::size_t c) {
    const Number along = (x[i] - moments.mean[c]) * scale[c] * scale[c] * sums.dy_centred[c] / count;
    result.x[i] = (dy[i] - sums.dy[c] / count - along) * scale[c] * detail::value_or(weight, c, 1);
  });
  return result;
}

/// @brief Backward through inference(): the running statistics are constants.
inline Gradients backward_running(const Numbers& x, const Numbers& dy, const Shape& shape, const Numbers& running_mean,
                                  const Numbers& running_var, const Numbers& weight, Number eps) {
  detail::require_size(running_mean, shape.channels, "running_mean");
  detail::require_size(running_var, shape.channels, "running_var");
  const detail::GradientSums sums = detail::gradient_sums(x, dy, shape, running_mean);
  Gradients result{Numbers(x.size()), Numbers(shape.channels), sums.dy};
  const Numbers scale = detail::running_scales(running_var, eps);
  for (std::size_t c = 0; c < shape.channels; ++c) result.weight[c] = scale[c] * sums.dy_centred[c];
  detail::for_each_element(
      shape, [&](std::size_t i, std::size_t c) { result.x[i] = dy[i] * detail::value_or(weight, c, 1) * scale[c]; });
  return result;
}

/// @brief One tensor that lies on several ranks: shards of equal channels and positions, any number of samples.
struct Shards {
  std::vector<std::size_t> samples;  // of each rank; 0 is allowed
  std::size_t channels = 0;
  std::size_t positions = 1;

  std::size_t ranks() const { return samples.size(); }
  Shape shape(std::size_t rank) const { return {samples[rank], channels, positions}; }

  /// @brief The shape of all shards together.
  Shape whole() const {
    Shape result{0, channels, positions};
    for (const std::size_t count : samples) result.samples += count;
    return result;
  }

  /// @brief Ranks one after the other along N.
  Numbers concatenate(const std::vector<Numbers>& parts) const {
    if (parts.size() != ranks()) throw std::invalid_argument("oracle: needs one part per rank");
    Numbers result;
    for (std::size_t rank = 0; rank < ranks(); ++rank) {
      detail::require_size(parts[rank], shape(rank).elements(), "a part");
      result.insert(result.end(), parts[rank].begin(), parts[rank].end());
    }
    return result;
  }

  /// @brief The inverse of concatenate().
  std::vector<Numbers> split(const Numbers& together) const {
    detail::require_size(together, whole().elements(), "the concatenated tensor");
    std::vector<Numbers> result;
    auto from = together.begin();
    for (std::size_t rank = 0; rank < ranks(); ++rank) {
      const auto to = from + static_cast<std::ptrdiff_t>(shape(rank).elements());
      result.emplace_back(from, to);
      from = to;
    }
    return result;
  }
};

/// @brief The moments over all ranks' shards of x.
inline Statistics statistics(const std::vector<Numbers>& x, const Shards& shards) {
  return statistics(shards.concatenate(x), shards.whole());
}

/// @brief Each rank's y in synchronized training.
inline std::vector<Numbers> normalize(const std::vector<Numbers>& x, const Shards& shards, const Statistics& moments,
                                      const Numbers& weight, const Numbers& bias, Number eps) {
  return shards.split(normalize(shards.concatenate(x), shards.whole(), moments, weight, bias, eps));
}

/// @brief Each rank's gradients in synchronized training.
///
/// x: of the sum of all ranks' losses. weight and bias: of the rank's own shard only; their sum over ranks is the
/// gradient of the sum of the losses.
inline std::vector<Gradients> backward_batch(const std::vector<Numbers>& x, const std::vector<Numbers>& dy,
                                             const Shards& shards, const Statistics& moments, const Numbers& weight,
                                             Number eps) {
  const std::vector<Numbers> dx = shards.split(
      backward_batch(shards.concatenate(x), shards.concatenate(dy), shards.whole(), moments, weight, eps).x);
  const Numbers scale = detail::batch_scales(moments, eps);
  std::vector<Gradients> result;
  for (std::size_t rank = 0; rank < shards.ranks(); ++rank) {
    detail::GradientSums own = detail::gradient_sums(x[rank], dy[rank], shards.shape(rank), moments.mean);
    for (std::size_t c = 0; c < shards.channels; ++c) own.dy_centred[c] *= scale[c];
    result.push_back({dx[rank], std::move(own.dy_centred), std::move(own.dy)});
  }
  return result;
}

}  // namespace syncbn_test::oracle
