// Numbers that naive formulas get wrong, on one rank and on several. What is promised: docs/numerics.md.

#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include <syncbn/syncbn.hpp>

#include "support/activations.hpp"
#include "support/catch.hpp"
#include "support/layer_judge.hpp"
#include "support/parallel_loop.hpp"
#include "support/thread_ranks.hpp"
#include "support/values.hpp"

using namespace syncbn_test;

namespace {

using syncbn::ThreadCommunicator;
template <class P>
using Layer = syncbn::SyncBatchNorm<syncbn::CpuBackend<P>, ThreadCommunicator>;
template <class P>
using State = syncbn::BatchNormState<syncbn::CpuBackend<P>>;

template <class P>
struct Result {
  Numbers y, dx, weight_grad, bias_grad;
  std::optional<State<P>> before, after;
};

// The batch, row by row (values x channels), dealt out to ranks as evenly as it goes; momentum 1, so that the running
// statistics are those of the batch.
template <class T, class P>
std::vector<Result<P>> run(int ranks, Index channels, const Numbers& x, const Numbers& dy,
                           syncbn::BatchNormOptions options = {}, double weight_size = 1) {
  options.momentum = 1.0;
  const Index rows = static_cast<Index>(x.size()) / channels;
  return on_thread_ranks(ranks, [&](ThreadCommunicator communicator) {
    const Index first = rows * communicator.rank() / ranks * channels;
    const Index last = rows * (communicator.rank() + 1) / ranks * channels;
    const std::vector<Index> extents{(last - first) / channels, channels};
    const Activations<T> mine(extents, Numbers(x.begin() + first, x.begin() + last));
    const Activations<T> gradient(extents, Numbers(dy.begin() + first, dy.begin() + last));
    Activations<T> y(extents), dx(extents);
    Layer<P> layer(channels, options, communicator);
    scramble(layer);
    for (Index c = 0; c < channels; ++c) layer.weight()[c] = static_cast<P>(layer.weight()[c] * weight_size);
    Result<P> result;
    result.before = layer;
    const auto saved = layer.forward(mine, y);
    result.after = layer;
    layer.backward(gradient, mine, saved, dx);
    result.y = y.numbers();
    result.dx = dx.numbers();
    result.weight_grad = numbers_of(layer.weight_grad());
    result.bias_grad = numbers_of(layer.bias_grad());
    return result;
  });
}

struct Extremes {
  double weight_size = 1;
  Number dy_size = 1;
  bool holds_variance = true;  // P does
};

// Judges what ranks made of a batch against the oracle.
template <class T, class P>
void check_batch(int ranks, Index channels, const Numbers& numbers, syncbn::BatchNormOptions options = {},
                 Extremes extremes = {}) {
  INFO(ranks << " ranks");
  const Index rows = static_cast<Index>(numbers.size()) / channels;
  const Numbers x = Activations<T>({rows, channels}, numbers).numbers();
  Numbers gradient = values(numbers.size(), 77);
  for (Number& v : gradient) v *= extremes.dy_size;
  const Numbers dy = Activations<T>({rows, channels}, gradient).numbers();
  const auto results = run<T, P>(ranks, channels, x, dy, options, extremes.weight_size);
  LayerJudge<T, State<P>> judge(NormalizedBy::batch, x, shape_of({rows, channels}), *results[0].before, ranks);
  Result<P> all = results[0];
  for (std::size_t r = 1; r < results.size(); ++r) {
    all.y.insert(all.y.end(), results[r].y.begin(), results[r].y.end());
    all.dx.insert(all.dx.end(), results[r].dx.begin(), results[r].dx.end());
    for (std::size_t c = 0; c < all.weight_grad.size(); ++c) {
      all.weight_grad[c] += results[r].weight_grad[c];
      all.bias_grad[c] += results[r].bias_grad[c];
    }
    CHECK(LayerSnapshot(*results[r].after) == LayerSnapshot(*results[0].after));
  }
  judge.output(all.y);
  if (extremes.holds_variance) judge.update(*all.after, 1);
  judge.gradients(dy, all.dx, all.weight_grad, all.bias_grad);
  check(judge);
  for (const Number variance : numbers_of(all.after->running_var())) CHECK(variance >= 0);
}

template <class T, class P>
void check_constant(int ranks, Number value, Index rows, syncbn::BatchNormOptions options = {}) {
  const Number stored = value_of(element<T>(value));
  INFO("value " << static_cast<double>(value) << ", " << rows << " rows, " << ranks << " ranks, eps " << options.eps);
  const Numbers x(static_cast<std::size_t>(3 * rows), value);
  const auto results = run<T, P>(ranks, 3, x, values(x.size(), 5), options);
  bool exact = true;
  for (const auto& result : results) {
    const Numbers bias = numbers_of(result.after->bias());
    for (std::size_t i = 0; i < result.y.size(); ++i) exact &= result.y[i] == value_of(element<T>(bias[i % 3]));
    // Gradients are of the size of 1 / sqrt(eps), which P may not hold; without eps they are 0.
    const bool holds_gradients = options.eps == 0 || 1 / std::sqrt(options.eps) < std::numeric_limits<P>::max();
    for (const Number dx : result.dx) exact &= std::isfinite(dx) || !holds_gradients;
    CHECK(numbers_of(result.after->running_mean()) == Numbers(3, static_cast<Number>(static_cast<P>(stored))));
    CHECK(numbers_of(result.after->running_var()) == Numbers{0, 0, 0});
  }
  CHECK(exact);
}

}  // namespace

TEST_CASE("a constant channel gives the bias, exactly", "[batch_norm][numerics]") {
  for (const int ranks : {1, 2, 3, 5}) {
    for (const Number value : {0.0L, 1.0L, 3.0L, 1e4L, 1e7L, -330000.03L, 0.1L}) {
      for (const Index rows : {7, 1000, 4099}) {
        check_constant<float, float>(ranks, value, rows);
        check_constant<double, double>(ranks, value, rows);
        check_constant<syncbn::BFloat16, float>(ranks, value, rows);
      }
    }
    for (const Number value : {1.0L, 3.0L, 1e4L, 65504.0L}) check_constant<syncbn::Float16, float>(ranks, value, 1000);
    // Neither 0 / 0 nor a NaN without eps.
    check_constant<float, float>(ranks, 3, 100, {.eps = 0});
    check_constant<double, double>(ranks, 0.1L, 100, {.eps = 0});
    // 1 / sqrt(eps) is more than a float can hold.
    check_constant<float, float>(ranks, 3, 100, {.eps = 1e-80});
  }
}

TEST_CASE("a mean of 1e5 beside a deviation of 1 costs no digits", "[batch_norm][numerics]") {
  for (const int ranks : {1, 2, 5}) {
    const Numbers x = values(3000, 1, 1e5L, 2);
    check_batch<float, float>(ranks, 3, x);
    check_batch<double, double>(ranks, 3, x);
    // Just short of, and just beyond, where ranks do a second sum: mean^2 is 2^8 or 2^20 times the variance.
    for (const Number mean : {18.0L, 19.0L, 400.0L, 1180.0L, 1190.0L}) {
      check_batch<float, float>(ranks, 1, values(1000, 3, mean, 2));
      check_batch<double, double>(ranks, 1, values(1000, 3, mean, 2));
    }
    // The mean is kept to more digits than f32 has, so that errors are those of the deviation: see normalized().
    check_batch<float, float>(ranks, 1, values(1000, 2, 8e6L, 2));
    check_batch<double, double>(ranks, 1, values(1000, 2, 1e13L, 2));
  }
}

TEST_CASE("a variance of 1e-12 is not noise", "[batch_norm][numerics]") {
  for (const int ranks : {1, 2, 3}) {
    for (const double eps : {1e-5, 1e-12, 0.0}) {
      check_batch<float, float>(ranks, 2, values(2000, 1, 0, 2e-6L), {.eps = eps});
      check_batch<double, double>(ranks, 2, values(2000, 1, 0, 2e-6L), {.eps = eps});
      check_batch<double, double>(ranks, 2, values(2000, 1, 1, 2e-6L), {.eps = eps});
    }
  }
}

TEST_CASE("neighbouring numbers have a variance that is right and not negative", "[batch_norm][numerics]") {
  for (const int ranks : {1, 2, 3, 8, 16}) {
    Numbers integers, neighbours, doubles;
    for (int i = 0; i < 64; ++i) {
      integers.push_back(16777215 + (i % 3 - 1));  // 2^24 - 1 and its neighbours
      neighbours.push_back(i % 4 == 0 ? std::nextafter(1e6F, 2e6F) : 1e6F);
      doubles.push_back(i % 5 == 0 ? std::nextafter(0.1, 1.0) : 0.1);
    }
    check_batch<float, float>(ranks, 1, integers);
    check_batch<float, float>(ranks, 1, neighbours);
    check_batch<double, double>(ranks, 1, neighbours);
    check_batch<double, double>(ranks, 1, doubles);
  }
}

TEST_CASE("numbers near the largest have a scale that underflows", "[batch_norm][numerics]") {
  for (const int ranks : {1, 3}) {
    for (const Number size : {3e36L, 3e37L, 1e38L}) {
      Numbers x = values(3 * 500, 11);
      for (Number& v : x) v *= size;
      check_batch<float, float>(ranks, 3, x, {}, {0.01, 1e4L, false});
      check_batch<syncbn::BFloat16, float>(ranks, 3, x, {}, {0.01, 1e4L, false});
    }
  }
}

TEST_CASE("more 16-bit values than the format can count", "[batch_norm][numerics]") {
  for (const int ranks : {1, 2}) {
    check_batch<syncbn::Float16, float>(ranks, 1, values(70000, 1, 100, 90));
    check_batch<syncbn::BFloat16, float>(ranks, 1, values(70000, 1, 100, 90));
  }
}

namespace {

// A channel with this value in it must not touch the others, forward or backward.
template <class T, class P>
void check_poison(int ranks, Number poison, Index rows) {
  INFO("poison " << static_cast<double>(poison) << ", " << rows << " rows, " << ranks << " ranks");
  const Index channels = 11;  // more than the eight that kernels may take together
  const std::size_t bad = 4;
  const Numbers healthy = values(static_cast<std::size_t>(channels * rows), 1);
  const Numbers dy = values(healthy.size(), 2);
  Numbers poisoned = healthy;
  poisoned[static_cast<std::size_t>(channels * (rows / 2)) + bad] = poison;
  const auto expected = run<T, P>(ranks, channels, healthy, dy);
  const auto got = run<T, P>(ranks, channels, poisoned, dy);
  bool others_same = true;
  bool bad_poisoned = true;
  for (std::size_t r = 0; r < got.size(); ++r) {
    for (std::size_t i = 0; i < got[r].y.size(); ++i) {
      if (i % static_cast<std::size_t>(channels) == bad) {
        bad_poisoned &= !std::isfinite(got[r].dx[i]);
      } else {
        others_same &= got[r].y[i] == expected[r].y[i] && got[r].dx[i] == expected[r].dx[i];
      }
    }
    const LayerSnapshot after(*got[r].after), healthy_after(*expected[r].after);
    for (std::size_t t = 0; t < after.tensors.size(); ++t) {
      for (std::size_t c = 0; c < after.tensors[t].size(); ++c) {
        if (c != bad) others_same &= after.tensors[t][c] == healthy_after.tensors[t][c];
      }
    }
    for (std::size_t c = 0; c < static_cast<std::size_t>(channels); ++c) {
      if (c != bad) others_same &= got[r].weight_grad[c] == expected[r].weight_grad[c];
    }
    bad_poisoned &= !std::isfinite(numbers_of(got[r].after->running_mean())[bad]);
    bad_poisoned &= std::isnan(numbers_of(got[r].after->running_var())[bad]);
    CHECK(got[r].after->num_batches_tracked() == expected[r].after->num_batches_tracked());
  }
  CHECK(others_same);
  CHECK(bad_poisoned);
}

}  // namespace

TEST_CASE("a NaN or an infinity poisons its own channel only", "[batch_norm][numerics]") {
  const Number infinity = std::numeric_limits<Number>::infinity();
  for (const int ranks : {1, 3}) {
    for (const Number poison : {std::numeric_limits<Number>::quiet_NaN(), infinity, -infinity}) {
      for (const Index rows : {5, 8, 2050}) {
        check_poison<float, float>(ranks, poison, rows);
        check_poison<double, double>(ranks, poison, rows);
        check_poison<syncbn::Float16, float>(ranks, poison, rows);
      }
    }
  }
}

TEST_CASE("a layer's results have the same bits for any number of threads and any layout", "[batch_norm][numerics]") {
  const std::vector<Index> extents{6, 10, 23, 31};
  const Activations<float> x(extents, values(shape_of(extents).elements(), 1, 3, 2));
  const Activations<float> dy(extents, values(shape_of(extents).elements(), 2));
  const auto transcript = [&](auto& layer, Layout layout, Layout dy_layout) {
    scramble(layer);
    const Activations<float> input(extents, x.numbers(), layout), gradient(extents, dy.numbers(), dy_layout);
    Activations<float> y(extents, dy_layout), dx(extents, layout);
    const auto saved = layer.forward(input, y);
    layer.backward(gradient, input, saved, dx);
    return std::vector<Numbers>{y.numbers(),
                                dx.numbers(),
                                numbers_of(layer.weight_grad()),
                                numbers_of(layer.bias_grad()),
                                numbers_of(layer.running_mean()),
                                numbers_of(layer.running_var())};
  };
  syncbn::BatchNorm<2> serial(10);
  const auto expected = transcript(serial, Layout::contiguous, Layout::contiguous);
  for (const Layout layout : all_layouts) {
    for (const Layout dy_layout : all_layouts) {
      syncbn::BatchNorm<2> layer(10);
      CHECK(transcript(layer, layout, dy_layout) == expected);
      for (const int threads : {1, 2, 3, 7}) {
        using Backend = syncbn::CpuBackend<float, syncbn::ParallelFor<ParallelLoop>>;
        syncbn::BatchNorm<2, Backend> parallel(10, {}, {}, Backend(syncbn::ParallelFor(ParallelLoop{threads})));
        CHECK(transcript(parallel, layout, dy_layout) == expected);
      }
    }
  }
}
