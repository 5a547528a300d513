#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "support/activations.hpp"
#include "support/bounds.hpp"
#include "support/oracle.hpp"

/// @file
/// How far the results of a whole layer, on any number of ranks, may lie from the exact ones: the bounds of bounds.hpp put
/// together for one pass over a batch. And a comparison that asserts once.

namespace syncbn_test {

/// @brief Running statistics before a step, and the share of the new batch.
struct Update {
  Number old;
  Number factor;
};

/// @brief Exact facts, bounds and sizes of terms of one pass. i is an element in logical order, c its channel.
class LayerBounds {
 public:
  /// @brief A pass by batch statistics. @param x  of all ranks together. @param ranks  that share it.
  template <class T, class P>
  static LayerBounds of_batch(const Numbers& x, const oracle::Shape& shape, const Numbers& weight, const Numbers& bias,
                              Number eps, int ranks = 1) {
    LayerBounds result(x, shape, formats<T, P>(), ranks);
    result.batch_ = true;
    const oracle::Statistics exact = oracle::statistics(x, shape);
    for (std::size_t c = 0; c < shape.channels; ++c) {
      bounds::PassFacts f = parameters(weight, bias, eps, c);
      f.channel = {static_cast<Number>(shape.elements_per_channel()), exact.mean[c], exact.sum_of_squares[c], 0};
      result.pass_.push_back(f);
    }
    result.find_deviations();
    for (bounds::PassFacts& f : result.pass_) {
      if (f.channel.count == 0) break;
      set_moment_errors<T>(f, ranks);
      // A constant channel with eps = 0 is defined to give the bias: a scale of 0.
      if (f.channel.m2 == 0 && eps == 0) {
        f.eps = 1;
        f.weight = 0;
      }
    }
    return result;
  }

  /// @brief A pass by running statistics, which are exact.
  template <class T, class P>
  static LayerBounds of_running(const Numbers& x, const oracle::Shape& shape, const Numbers& running_mean,
                                const Numbers& running_var, const Numbers& weight, const Numbers& bias, Number eps) {
    LayerBounds result(x, shape, formats<T, P>(), 1);
    for (std::size_t c = 0; c < shape.channels; ++c) {
      bounds::PassFacts f = parameters(weight, bias, eps, c);
      f.channel = {1, running_mean[c], running_var[c], 0};
      result.pass_.push_back(f);
    }
    result.find_deviations();
    return result;
  }

  /// @brief To be called before the bounds of gradients are asked for. @param dy  of the shape of x.
  void set_gradient(const Numbers& dy) {
    dy_ = dy;
    gradient_.assign(shape_.channels, {});
    largest_dy_.assign(shape_.channels, 0);
    gradient_terms_.assign(shape_.channels, 0);
    oracle::detail::for_each_element(shape_, [&](std::size_t i, std::size_t c) {
      const Number mean = pass_[c].channel.mean;
      gradient_[c].dy += dy[i];
      gradient_[c].dy_size += std::fabs(dy[i]);
      gradient_[c].dy_centred += dy[i] * (x_[i] - mean);
      gradient_[c].dy_centred_size += std::fabs(dy[i] * (x_[i] - mean));
      gradient_terms_[c] += std::fabs(dy[i]) * (std::fabs(x_[i]) + std::fabs(mean));
      largest_dy_[c] = std::max(largest_dy_[c], std::fabs(dy[i]));
    });
  }

  const bounds::PassFacts& facts(std::size_t c) const { return pass_[c]; }

  // ---- The library's own error ---------------------------------------------------------------------------------------

  Number y(std::size_t i, std::size_t c) const {
    const bounds::PassFacts& f = pass_[c];
    const Number size = std::fabs(x_[i] - f.channel.mean) * f.scale() + std::fabs(f.bias);
    return bounds::normalized(f, formats_, x_[i], size);
  }

  Number dx(std::size_t i, std::size_t c) const {
    const bounds::PassFacts& f = pass_[c];
    if (!batch_) {  // dy scaled: a normalization about 0
      bounds::PassFacts about_zero = f;
      about_zero.channel.mean = about_zero.bias = 0;
      return bounds::normalized(about_zero, formats_, dy_[i], dy_[i] * f.scale());
    }
    const bounds::GradientFacts& g = gradient_[c];
    const Number inverse = f.inverse_deviation();
    const Number distance = std::fabs(x_[i] - f.channel.mean);
    const Number sums = (g.dy_size + distance * inverse * inverse * g.dy_centred_size) / f.channel.count;
    // The two sums pass as many additions more as there are ranks.
    return bounds::propagated(f, g, formats_, dy_[i], x_[i], f.scale() * (std::fabs(dy_[i]) + sums)) +
           (ranks_ > 1 ? bounds::gamma(static_cast<Number>(ranks_)) * sums * f.scale() : 0);
  }

  /// Of the sum over ranks; each rounds its own part to P.
  Number weight_grad(std::size_t c) const { return bounds::weight_gradient(local_count(c), sizes(c), formats_); }
  Number bias_grad(std::size_t c) const { return bounds::bias_gradient(local_count(c), sizes(c), formats_); }

  /// (1 - factor) * old + factor * new: two roundings of each term, one of the sum, one to P; and what the new value errs.
  Number running_mean(std::size_t c, Update update) const {
    const bounds::PassFacts& f = pass_[c];
    return updated(update, f.channel.mean, f.mean_error);
  }
  /// The new value is M2 / n * n / (n - 1): three roundings more.
  Number running_var(std::size_t c, Update update) const {
    const bounds::PassFacts& f = pass_[c];
    const Number unbiased = f.channel.m2 / (f.channel.count - 1);
    return updated(update, unbiased, f.m2_error / (f.channel.count - 1) + bounds::gamma(3) * unbiased);
  }

  // ---- Sizes of all terms that a straightforward evaluation adds: what another implementation's error scales with ----

  Number y_terms(std::size_t c) const {
    const bounds::PassFacts& f = pass_[c];
    return (largest_x_[c] + std::fabs(f.channel.mean)) * f.scale() + std::fabs(f.bias);
  }
  Number dx_terms(std::size_t c) const {
    const bounds::PassFacts& f = pass_[c];
    if (!batch_) return largest_dy_[c] * f.scale();
    const Number along = (largest_x_[c] + std::fabs(f.channel.mean)) * f.inverse_deviation() * weight_grad_terms(c);
    return f.scale() * (largest_dy_[c] + (gradient_[c].dy_size + along) / f.channel.count);
  }
  Number weight_grad_terms(std::size_t c) const { return pass_[c].inverse_deviation() * gradient_terms_[c]; }
  Number bias_grad_terms(std::size_t c) const { return gradient_[c].dy_size; }
  Number running_mean_terms(std::size_t c, Update update) const {
    const bounds::ChannelFacts& f = pass_[c].channel;
    return std::fabs((1 - update.factor) * update.old) +
           std::fabs(update.factor) * (std::fabs(f.mean) + std::sqrt(f.variance()));
  }
  Number running_var_terms(std::size_t c, Update update) const {
    const bounds::ChannelFacts& f = pass_[c].channel;
    return std::fabs((1 - update.factor) * update.old) + std::fabs(update.factor) * f.m2 / (f.count - 1);
  }

 private:
  LayerBounds(const Numbers& x, const oracle::Shape& shape, const bounds::Formats& formats, int ranks)
      : x_(x), shape_(shape), formats_(formats), ranks_(ranks), largest_x_(shape.channels) {}

  template <class T, class P>
  static bounds::Formats formats() {
    const Number w = epsilon_of<T> / 2;
    const Number v = epsilon_of<P> / 2;
    return {v, std::numeric_limits<P>::denorm_min(), w > v ? w : 0, smallest_of<T>()};
  }

  static bounds::PassFacts parameters(const Numbers& weight, const Numbers& bias, Number eps, std::size_t c) {
    bounds::PassFacts f;
    f.eps = eps;
    f.weight = oracle::detail::value_or(weight, c, 1);
    f.bias = oracle::detail::value_or(bias, c, 0);
    return f;
  }

  void find_deviations() {
    oracle::detail::for_each_element(shape_, [&](std::size_t i, std::size_t c) {
      largest_x_[c] = std::max(largest_x_[c], std::fabs(x_[i]));
      Number& deviation = pass_[c].channel.deviation;
      deviation = std::max(deviation, std::fabs(x_[i] - pass_[c].channel.mean));
    });
  }

  // Each rank's moments obey the bounds for all values together: no rank has more of them, or larger deviations (about its
  // own mean at most twice R). Ranks' means that err by E move M2 by at most 2 sqrt(n M2) E + n E^2. Sums about zero lose
  // what cancels, unless a second round, of sums about the common mean, takes their place.
  template <class T>
  static void set_moment_errors(bounds::PassFacts& f, int ranks) {
    const bounds::ChannelFacts& channel = f.channel;
    f.mean_error = bounds::mean(channel);
    f.m2_error = std::is_same_v<T, double> ? bounds::m2_about_mean(channel) : bounds::m2_about_first(channel);
    if (ranks == 1) return;
    const auto p = static_cast<Number>(ranks);
    const Number n = channel.count;
    const Number limit = std::is_same_v<T, double> ? 256 : 1048576;  // above it there is a second round
    const Number squares = channel.m2 + n * channel.mean * channel.mean;
    const Number local = 2 * f.mean_error;
    f.mean_error = local + bounds::mean_by_sums(p) * std::sqrt(squares / n);
    f.m2_error = 4 * f.m2_error + 2 * std::sqrt(n * channel.m2) * local + n * local * local +
                 bounds::m2_by_sums(p) * std::min(squares, limit * (channel.m2 + n * local * local)) +
                 bounds::m2_by_centred_sums(p) * (channel.m2 + n * f.mean_error * f.mean_error);
  }

  Number updated(Update update, Number value, Number value_error) const {
    const Number terms = std::fabs((1 - update.factor) * update.old) + std::fabs(update.factor * value);
    const Number error = bounds::gamma(3) * terms + std::fabs(update.factor) * value_error;
    return error + formats_.v * (terms + error) + formats_.smallest;
  }

  // Sums of absolute values in place of sums: bounds that hold for the sum of any parts.
  bounds::GradientFacts sizes(std::size_t c) const {
    const bounds::GradientFacts& g = gradient_[c];
    return {g.dy_size, g.dy_size, g.dy_centred_size, g.dy_centred_size};
  }
  // Running statistics have no count of their own; the sums are over this batch.
  bounds::PassFacts local_count(std::size_t c) const {
    bounds::PassFacts f = pass_[c];
    const Number variance = f.channel.variance();
    f.channel.count = std::max<Number>(1, static_cast<Number>(shape_.elements_per_channel()));
    f.channel.m2 = variance * f.channel.count;
    return f;
  }

  Numbers x_, dy_;
  oracle::Shape shape_;
  bounds::Formats formats_;
  int ranks_;
  bool batch_ = false;
  std::vector<bounds::PassFacts> pass_;
  std::vector<bounds::GradientFacts> gradient_;
  Numbers largest_x_, largest_dy_, gradient_terms_;
};

// ---- Comparing -------------------------------------------------------------------------------------------------------

/// @brief Compares numbers and keeps the worst, so that a test asserts once. Where one side is not finite, only whether the
/// other is not either counts.
class Comparison {
 public:
  /// @param what  for the message. @param bound  of |got - expected|.
  void add(const std::string& what, std::size_t at, Number got, Number expected, Number bound) {
    ++compared_;
    const Number infinity = std::numeric_limits<Number>::infinity();
    Number ratio = 0;
    if (!std::isfinite(got) || !std::isfinite(expected)) {
      ratio = std::isfinite(got) == std::isfinite(expected) ? 0 : infinity;
    } else if (got != expected) {
      ratio = std::fabs(got - expected) / bound;
      if (!(ratio >= 0)) ratio = infinity;  // a bound that is NaN
    }
    if (ratio < worst_ || (ratio == worst_ && compared_ > 1)) return;
    worst_ = ratio;
    place_ = what + "[" + std::to_string(at) + "]: " + std::to_string(static_cast<double>(got)) + " for " +
             std::to_string(static_cast<double>(expected)) + ", " + std::to_string(static_cast<double>(ratio)) +
             " times the bound";
  }
  /// @brief Activations. @param bound  of element i, in channel c.
  template <class Bound>
  void add(const std::string& what, const Numbers& got, const Numbers& expected, const oracle::Shape& shape,
           const Bound& bound) {
    if (same_size(what, got, expected, shape.elements())) {
      oracle::detail::for_each_element(
          shape, [&](std::size_t i, std::size_t c) { add(what, i, got[i], expected[i], bound(i, c)); });
    }
  }
  /// @brief Per-channel tensors. @param bound  of channel c.
  template <class Bound>
  void add(const std::string& what, const Numbers& got, const Numbers& expected, const Bound& bound) {
    if (!same_size(what, got, expected, expected.size())) return;
    for (std::size_t c = 0; c < expected.size(); ++c) add(what, c, got[c], expected[c], bound(c));
  }

  /// @brief The largest |got - expected| / bound: at most 1 if all is well.
  Number worst() const { return worst_; }
  const std::string& place() const { return place_; }
  std::size_t compared() const { return compared_; }

 private:
  bool same_size(const std::string& what, const Numbers& got, const Numbers& expected, std::size_t size) {
    if (got.size() == size && expected.size() == size) return true;
    worst_ = std::numeric_limits<Number>::infinity();
    place_ = what + ": " + std::to_string(got.size()) + " numbers for " + std::to_string(expected.size());
    return false;
  }

  Number worst_ = 0;
  std::string place_ = "nothing was compared";
  std::size_t compared_ = 0;
};

}  // namespace syncbn_test
