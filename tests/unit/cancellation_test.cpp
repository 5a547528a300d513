// Means that dwarf deviations, on one to 64 ranks: variances stay within their bound, and a second sum is done when, and
// only when, the first one cannot be trusted.
//
// The bound. Each rank's mean errs by E at most and its M2 by m2_about_first() or m2_about_mean() (support/bounds.hpp,
// with deviations about the rank's own mean up to 2 R); means that err by E move M2 of all by 2 sqrt(n M2) E + n E^2.
// From sums about zero the common mean errs by t = E + gamma(P + 2) sqrt(S2 / n), which is some ulps of the mean, and M2 by
// gamma(3 P + 9) S2: without a second sum that must stay below the limit, S2 <= 2^20 M2 (2^8 for f64). The second sum adds
// M2 + n t^2, in which nothing cancels: gamma(3 P + 16) of that, which is nothing. So the variance errs by
//
//     (4 e + 2 sqrt(n M2) E + n E^2 + gamma(3 P + 9) min(S2, limit (M2 + n E^2)) + gamma(3 P + 16) (M2 + n t^2)) / n
//
// and the mean by E + gamma(P + 4) t + 2 u |mean| with a second sum, by t without.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <syncbn/syncbn.hpp>

#include "support/activations.hpp"
#include "support/bounds.hpp"
#include "support/catch.hpp"
#include "support/layer_bounds.hpp"
#include "support/oracle.hpp"
#include "support/recording_communicator.hpp"
#include "support/thread_ranks.hpp"

namespace {

using namespace syncbn_test;
using syncbn::ThreadCommunicator;
using Recording = RecordingCommunicator<ThreadCommunicator>;

constexpr std::array<int, 11> rank_counts{1, 2, 3, 4, 5, 6, 7, 8, 16, 33, 64};

// Different numbers of samples, none among them.
Index samples_of(int rank, int ranks) {
  if (ranks == 1) return 6;
  return rank % 4 == 3 ? 0 : 1 + rank % 3 * 2;
}

// A channel's value at sample i of all ranks together.
using Channel = std::function<double(std::size_t i)>;

// What one rank has after a step forward.
struct Step {
  Numbers x, y;                          // (N, C)
  std::vector<double> mean, variance;    // (C)
  std::vector<double> running_variance;  // (C)
  std::vector<Index> frames;
};

template <class T>
std::vector<Step> step_forward(int ranks, const std::vector<Channel>& channels, double eps = 1e-5) {
  using Backend = syncbn::CpuBackend<T>;
  return on_thread_ranks(ranks, [&](ThreadCommunicator group) {
    const auto size = static_cast<Index>(channels.size());
    std::size_t first = 0;
    for (int r = 0; r < group.rank(); ++r) first += static_cast<std::size_t>(samples_of(r, ranks));
    Recording c(group);
    syncbn::BatchNormOptions options;
    options.eps = eps;
    options.momentum = 1;
    syncbn::BatchNorm<1, Backend, Recording> layer(size, options, c);
    for (Index k = 0; k < size; ++k) {
      layer.weight()[k] = static_cast<T>(3);
      layer.bias()[k] = static_cast<T>(0.3);
    }
    Activations<T> x({samples_of(group.rank(), ranks), size}), y({samples_of(group.rank(), ranks), size});
    for (Index n = 0; n < x.extents()[0]; ++n) {
      for (Index k = 0; k < size; ++k) {
        x.view()(n, k) = static_cast<T>(channels[static_cast<std::size_t>(k)](first + static_cast<std::size_t>(n)));
      }
    }
    const auto saved = layer.forward(x, y);
    Step step{x.numbers(), y.numbers(), {}, {}, {}, c.record().started};
    for (std::size_t k = 0; k < channels.size(); ++k) {
      step.mean.push_back(saved.statistics.mean()[k]);
      step.variance.push_back(saved.statistics.variance()[k]);
      step.running_variance.push_back(static_cast<double>(layer.running_var()[static_cast<Index>(k)]));
    }
    return step;
  });
}

// The bounds above.
struct Bounds {
  Number mean, variance;
};
template <class T>
Bounds bounds_for(const bounds::ChannelFacts& f, int ranks) {
  const auto p = static_cast<Number>(ranks);
  const Number limit = std::is_same_v<T, double> ? 256 : 1048576;
  bounds::ChannelFacts local = f;
  local.deviation *= 2;
  const Number e = std::is_same_v<T, double> ? bounds::m2_about_mean(local) : bounds::m2_about_first(local);
  const Number local_mean = bounds::mean(local);
  const Number s2 = f.m2 + f.count * f.mean * f.mean;
  const Number t = local_mean + bounds::mean_by_sums(p) * std::sqrt(s2 / f.count);
  const Number trusted = std::min(s2, limit * (f.m2 + f.count * local_mean * local_mean));
  const Number m2 = 4 * e + 2 * std::sqrt(f.count * f.m2) * local_mean + f.count * local_mean * local_mean +
                    (ranks == 1 ? 0 : bounds::m2_by_sums(p) * trusted) +
                    bounds::m2_by_centred_sums(p) * (f.m2 + f.count * t * t);
  const bool again = !(s2 <= limit * f.m2);
  const Number mean = again ? local_mean + bounds::gamma(p + 4) * t + 2 * bounds::u * std::abs(f.mean) : t;
  return {mean, m2 / f.count + bounds::gamma(2) * f.variance()};
}

// Judges a step on all ranks; the channels' facts.
template <class T>
std::vector<bounds::ChannelFacts> judge(const std::vector<Step>& steps) {
  const std::size_t channels = steps[0].mean.size();
  Numbers x;
  for (const Step& step : steps) x.insert(x.end(), step.x.begin(), step.x.end());
  const oracle::Shape shape{x.size() / channels, channels, 1};
  const oracle::Statistics exact = oracle::statistics(x, shape);
  std::vector<bounds::ChannelFacts> facts;
  for (std::size_t c = 0; c < channels; ++c) {
    facts.push_back({static_cast<Number>(shape.samples), exact.mean[c], exact.sum_of_squares[c], 0});
    for (std::size_t n = 0; n < shape.samples; ++n) {
      facts[c].deviation = std::max(facts[c].deviation, std::abs(x[n * channels + c] - exact.mean[c]));
    }
  }
  Comparison comparison;
  bool negative = false;
  for (std::size_t c = 0; c < channels; ++c) {
    const Bounds bound = bounds_for<T>(facts[c], static_cast<int>(steps.size()));
    comparison.add("mean", c, steps[0].mean[c], facts[c].mean, bound.mean);
    comparison.add("variance", c, steps[0].variance[c], facts[c].variance(), bound.variance);
    negative = negative || steps[0].variance[c] < 0 || steps[0].running_variance[c] < 0;
  }
  INFO(comparison.place());
  CHECK(comparison.worst() <= 1);
  CHECK_FALSE(negative);
  for (const Step& step : steps) {
    CHECK(step.mean == steps[0].mean);
    CHECK(step.variance == steps[0].variance);
    CHECK(step.running_variance == steps[0].running_variance);
    CHECK(step.frames == steps[0].frames);
  }
  return facts;
}

std::vector<Index> frames(int ranks, bool second_sum, Index channels = 1) {
  if (ranks == 1) return {};
  std::vector<Index> result{512};
  if (channels > 247) result.push_back(2 * channels + 3);
  if (second_sum) result.push_back(2 * channels + 3);
  return result;
}

// One channel: its variance, and whether there was a second sum.
template <class T>
void check_channel(const char* name, const Channel& channel, bool second_sum) {
  for (const int ranks : rank_counts) {
    INFO(name << " on " << ranks << " ranks");
    const std::vector<Step> steps = step_forward<T>(ranks, {channel});
    judge<T>(steps);
    CHECK(steps[0].frames == frames(ranks, second_sum));
  }
}

Channel constant(double value) {
  return [value](std::size_t) { return value; };
}
Channel alternating(double a, double b) {
  return [a, b](std::size_t i) { return i % 2 == 0 ? a : b; };
}
// Mean 1, with deviation 1 / ratio.
Channel about_one(double ratio) {
  return [ratio](std::size_t i) { return 1 + (i % 2 == 0 ? 1 : -1) / ratio; };
}

}  // namespace

TEST_CASE("f32 integers next to 2^24", "[cancellation]") {
  constexpr double top = 16777216;
  check_channel<float>("2^24 - 1 and 2^24", alternating(top - 1, top), true);
  check_channel<float>("2^24 - 2 and 2^24", alternating(top - 2, top), true);
  check_channel<float>("2^24 - 2 to 2^24", [](std::size_t i) { return top - static_cast<double>(i % 3); }, true);
  check_channel<float>("one in eight differs", [](std::size_t i) { return top - (i % 8 == 5 ? 1 : 0); }, true);
  check_channel<float>("negative", alternating(1 - top, -top), true);
}

TEST_CASE("f32 values one ulp apart", "[cancellation]") {
  const double ulp = static_cast<double>(std::nextafter(1e6F, 2e6F)) - 1e6;
  check_channel<float>("1e6 and the next", alternating(1e6, 1e6 + ulp), true);
  check_channel<float>("1e6, seldom the next", [=](std::size_t i) { return i % 5 == 0 ? 1e6 + ulp : 1e6; }, true);
  const double third = static_cast<double>(1.0F / 3);
  check_channel<float>("1/3 and the next", alternating(third, static_cast<double>(std::nextafter(1.0F / 3, 1.0F))),
                       true);
}

TEST_CASE("f64 values one ulp apart", "[cancellation]") {
  check_channel<double>("0.1 and the next", alternating(0.1, std::nextafter(0.1, 1)), true);
  check_channel<double>(
      "1e8 with a deviation of 1", [](std::size_t i) { return 1e8 + static_cast<double>(i % 3); }, true);
  check_channel<double>("1e150 and the next", alternating(1e150, std::nextafter(1e150, 2e150)), true);
}

TEST_CASE("each rank has a constant of its own: all variance lies between ranks", "[cancellation]") {
  // Samples of rank r begin where those of the ranks before it end.
  const auto rank_of = [](int ranks) {
    return [ranks](std::size_t i) {
      int r = 0;
      for (std::size_t end = static_cast<std::size_t>(samples_of(0, ranks)); end <= i;) {
        end += static_cast<std::size_t>(samples_of(++r, ranks));
      }
      return r;
    };
  };
  for (const int ranks : rank_counts) {
    if (ranks == 1) continue;
    INFO(ranks << " ranks");
    const auto rank = rank_of(ranks);
    const auto steps = step_forward<float>(ranks, {[=](std::size_t i) { return 1e7 + rank(i); }});
    judge<float>(steps);
    CHECK(steps[0].frames == frames(ranks, true));
    judge<double>(step_forward<double>(ranks, {[=](std::size_t i) { return 0.1 + rank(i) * 0x1p-50; }}));
  }
}

TEST_CASE("a constant channel gives exactly the bias, on every rank", "[cancellation]") {
  const auto check = [](auto type, double value) {
    using T = decltype(type);
    for (const int ranks : rank_counts) {
      for (const double eps : {1e-5, 0.0}) {
        INFO(value << " on " << ranks << " ranks, eps " << eps << ", " << sizeof(T) << " bytes");
        const std::vector<Step> steps = step_forward<T>(ranks, {constant(value)}, eps);
        judge<T>(steps);
        CHECK(steps[0].frames == frames(ranks, value != 0));
        const Number bias = static_cast<Number>(static_cast<T>(0.3));
        bool exact = true;
        for (const Step& step : steps) {
          for (const Number y : step.y) exact = exact && y == bias;
        }
        CHECK(exact);
        CHECK(steps[0].mean[0] == static_cast<double>(static_cast<T>(value)));
        CHECK(steps[0].variance[0] == 0);
      }
    }
  };
  for (const double value : {0.0, 1.0, 1e7, 330000.03, 16777215.0, -1e30, 1e-30, 0.1}) check(float{}, value);
  for (const double value : {0.0, 0.1, 1.0 / 3, 1e7, 1e-150, 1e-161, -1e-170, 1e-300, -1e150, 1e160, 123456789.123}) {
    check(double{}, value);
  }
}

TEST_CASE("a second sum is done where it is needed, and nowhere else", "[cancellation]") {
  // S2 / M2 = ratio^2 + 1, well to either side of 2^20, and of 2^8 for f64.
  check_channel<float>("f32, mean 2^9 deviations", about_one(512), false);
  check_channel<float>("f32, mean 2^11 deviations", about_one(2048), true);
  check_channel<double>("f64, mean 2^3 deviations", about_one(8), false);
  check_channel<double>("f64, mean 2^5 deviations", about_one(32), true);
  check_channel<float>("mean 0", alternating(-1, 1), false);
  check_channel<float>("zeros", constant(0), false);
  check_channel<float>("denormal numbers", alternating(1e-44, 0), false);
}

TEST_CASE("one channel of many that needs a second sum is enough, and harms no other", "[cancellation]") {
  for (const std::size_t size : {std::size_t{3}, std::size_t{247}, std::size_t{248}, std::size_t{300}}) {
    for (const std::size_t needy : {std::size_t{0}, size / 2, size - 1, size}) {
      std::vector<Channel> channels(size, alternating(0, 1));
      if (needy < size) channels[needy] = constant(330000.03);
      for (const int ranks : {2, 5}) {
        INFO("channel " << needy << " of " << size << " on " << ranks << " ranks");
        const std::vector<Step> steps = step_forward<float>(ranks, channels);
        judge<float>(steps);
        CHECK(steps[0].frames == frames(ranks, needy < size, static_cast<Index>(size)));
      }
    }
  }
}

TEST_CASE("channels with an infinity or a NaN ask for no second sum, and stay what they are", "[cancellation]") {
  const double inf = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const int ranks : {1, 2, 3, 8}) {
    INFO(ranks << " ranks");
    const std::vector<Step> steps = step_forward<float>(
        ranks, {alternating(0, 1), alternating(inf, 1), alternating(nan, 1), alternating(inf, -inf)});
    for (const Step& step : steps) {
      CHECK(step.frames == frames(ranks, false));
      CHECK(std::isfinite(step.variance[0]));
      CHECK_FALSE(std::isfinite(step.mean[1]));
      CHECK(std::isnan(step.mean[2]));
      CHECK(std::isnan(step.mean[3]));
      for (std::size_t i = 0; i < step.y.size(); i += 4) CHECK(std::isfinite(step.y[i]));
    }
  }
  // Beside one that needs it, they do not keep it from being done.
  const std::vector<Step> steps = step_forward<float>(3, {alternating(inf, 1), constant(1e7), alternating(nan, 1)});
  CHECK(steps[2].frames == frames(3, true, 3));
  CHECK(steps[2].variance[1] == 0);
  CHECK(steps[2].mean[1] == 1e7);
}

TEST_CASE("backward needs no second sum: its sums are about the mean already", "[cancellation]") {
  const auto results = on_thread_ranks(3, [](ThreadCommunicator group) {
    Recording c(group);
    syncbn::BatchNorm<1, syncbn::CpuBackend<float>, Recording> layer(1, {}, c);
    Activations<float> x({4, 1}, Numbers{16777215, 16777216, 16777215, 16777216});
    Activations<float> dy({4, 1}, Numbers{1, -1, 2, 0.5L}), dx({4, 1});
    const auto saved = layer.forward(x, x);
    c.record().clear();
    Activations<float> again({4, 1}, Numbers{16777215, 16777216, 16777215, 16777216});
    layer.backward(dy, again, saved, dx);
    return std::pair(c.record().started, dx.numbers());
  });
  const Numbers x{16777215, 16777216, 16777215, 16777216}, dy{1, -1, 2, 0.5L};
  const oracle::Gradients exact =
      oracle::backward_batch(x, dy, {4, 1, 1}, oracle::statistics(x, {4, 1, 1}), {1}, 1e-5L);
  LayerBounds bounds = LayerBounds::of_batch<float, float>(x, {4, 1, 1}, {}, {}, 1e-5L, 3);
  bounds.set_gradient(dy);
  for (const auto& [frames_sent, dx] : results) {
    CHECK(frames_sent == std::vector<Index>{512});
    for (std::size_t i = 0; i < 4; ++i) CHECK(std::abs(dx[i] - exact.x[i]) <= bounds.dx(i, 0));
  }
}
