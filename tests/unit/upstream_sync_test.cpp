// Upstream's tests of synchronized batch normalization, replayed on thread ranks. A test's number is that of the list in
// docs/conformance.md; tolerances are upstream's own. See upstream_test.cpp for those that are not replayed.

#include <array>
#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <syncbn/all_reduce.hpp>
#include <syncbn/convert.hpp>
#include <syncbn/functional.hpp>
#include <syncbn/state_dict.hpp>
#include <syncbn/syncbn.hpp>

#include "small_network.hpp"
#include "support/catch.hpp"
#include "support/layer_judge.hpp"
#include "support/recording_communicator.hpp"
#include "support/thread_ranks.hpp"
#include "support/values.hpp"
#include "upstream.hpp"

using namespace syncbn_test;

namespace {

using syncbn::ThreadCommunicator;
template <std::size_t Dims, class P = float>
using Plain = syncbn::BatchNorm<Dims, syncbn::CpuBackend<P>>;
template <std::size_t Dims, class P = float>
using Synced = syncbn::BatchNorm<Dims, syncbn::CpuBackend<P>, ThreadCommunicator>;

template <class T>
Activations<T> random(const std::vector<Index>& extents, std::uint64_t seed, Layout layout = Layout::contiguous) {
  return {extents, values(shape_of(extents).elements(), seed), layout};
}

template <class Value>
void append(std::vector<Value>& to, const std::vector<Value>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

// Samples [first, last) of a batch.
template <class T>
Activations<T> samples(const Activations<T>& whole, Index first, Index last, Layout layout = Layout::contiguous) {
  std::vector<Index> extents = whole.extents();
  const Numbers numbers = whole.numbers();
  const auto sample = static_cast<std::ptrdiff_t>(numbers.size()) / extents[0];
  extents[0] = last - first;
  return {extents, Numbers(numbers.begin() + first * sample, numbers.begin() + last * sample), layout};
}

// What a data-parallel wrapper does with the gradients of parameters: the mean over ranks.
template <class T>
void average(ThreadCommunicator& communicator, const syncbn::TensorView<T>& gradient) {
  std::vector<double> words;
  for (Index i = 0; i < gradient.extent(0); ++i) words.push_back(static_cast<double>(gradient[i]));
  syncbn::all_reduce_sum(communicator, words);
  for (Index i = 0; i < gradient.extent(0); ++i) {
    gradient[i] = static_cast<T>(words[static_cast<std::size_t>(i)] / communicator.size());
  }
}

template <class T>
void descend(const syncbn::TensorView<T>& parameter, const syncbn::TensorView<T>& gradient) {
  constexpr double learning_rate = 0.01;
  for (Index i = 0; i < parameter.extent(0); ++i) parameter[i] -= static_cast<T>(learning_rate) * gradient[i];
}

template <class T>
syncbn::TensorView<T> flat(Matrix<T>& m) {
  return {m.at.data(), {static_cast<Index>(m.at.size())}};
}

// Linear(2, 40), BatchNorm1d of (N, 4, 10), Linear(40, 4), softmax, squared error.
template <class T, class Layer>
struct Network {
  Linear<T> first{2, 40, 1};
  Layer layer;
  Linear<T> second{40, 4, 2};

  explicit Network(Layer batch_norm) : layer(std::move(batch_norm)) {}

  // Gradients of factor * mean((y - target)^2).
  void gradients(const Matrix<T>& x, const Matrix<T>& target, T factor = 1) {
    Matrix<T> hidden = first.forward(x);
    Matrix<T> normal(hidden.rows, 40), slope(hidden.rows, 40);
    const std::vector<Index> extents{static_cast<Index>(hidden.rows), 4, 10};
    const auto saved = layer.forward(hidden.view(extents), normal.view(extents));
    const Matrix<T> y = softmax(second.forward(normal));
    Matrix<T> back = second.backward(normal, softmax_backward(y, squared_error_backward(y, target, factor)));
    layer.backward(back.view(extents), hidden.view(extents), saved, slope.view(extents));
    first.backward(x, slope);
  }
  void step() {
    each([](const auto& parameter, const auto& gradient) {
      descend(parameter, gradient);
      for (Index i = 0; i < gradient.extent(0); ++i) gradient[i] = 0;
    });
  }
  Numbers parameters() {
    Numbers all;
    each([&](const auto& parameter, const auto&) { append(all, numbers_of(parameter)); });
    return all;
  }
  // Calls f(parameter, gradient) for each.
  template <class F>
  void each(const F& f) {
    f(flat(first.weight), flat(first.gradient));
    if (layer.options().affine) {
      f(layer.weight(), layer.weight_grad());
      f(layer.bias(), layer.bias_grad());
    }
    f(flat(second.weight), flat(second.gradient));
  }
};

// Trains alone on whole batches; the parameters after each step.
template <class T>
std::vector<Numbers> train_alone(const Matrix<T>& x, const Matrix<T>& target, int steps, bool affine = true) {
  Network<T, Plain<1, T>> network(Plain<1, T>(4, {.affine = affine}));
  std::vector<Numbers> trace;
  for (int step = 0; step < steps; ++step) {
    network.gradients(x, target);
    network.step();
    trace.push_back(network.parameters());
    append(trace.back(), numbers_of(network.layer.running_mean()));
    append(trace.back(), numbers_of(network.layer.running_var()));
  }
  return trace;
}

// Trains on ranks, rank r on the samples [first(r), first(r + 1)). Halfway the state is saved and loaded into a new layer.
template <class T>
std::vector<std::vector<Numbers>> train_on_ranks(int ranks, const Matrix<T>& x, const Matrix<T>& target, int steps,
                                                 const std::function<std::size_t(int)>& first, bool affine = true) {
  return on_thread_ranks(ranks, [&](ThreadCommunicator communicator) {
    const int rank = communicator.rank();
    Network<T, Synced<1, T>> network(Synced<1, T>(4, {.affine = affine}, communicator));
    const Matrix<T> mine = x.slice(first(rank), first(rank + 1));
    const Matrix<T> my_target = target.slice(first(rank), first(rank + 1));
    // The mean of the ranks' means, each by its share: the mean over the whole batch.
    const T factor = static_cast<T>(ranks) * static_cast<T>(mine.rows) / static_cast<T>(x.rows);
    std::vector<Numbers> trace;
    for (int step = 0; step < steps; ++step) {
      if (step == steps / 2) {
        Synced<1, T> reloaded(4, {.affine = affine}, communicator);
        syncbn::load_state_dict(reloaded, syncbn::state_dict(network.layer));
        network.layer = std::move(reloaded);
      }
      network.gradients(mine, my_target, factor);
      network.each([&](const auto&, const auto& gradient) { average(communicator, gradient); });
      network.step();
      trace.push_back(network.parameters());
      append(trace.back(), numbers_of(network.layer.running_mean()));
      append(trace.back(), numbers_of(network.layer.running_var()));
    }
    return trace;
  });
}

template <class T>
void check_training(int ranks, std::size_t total, int steps, const std::function<std::size_t(int)>& first,
                    bool affine = true) {
  const Matrix<T> x(total, 2, 11);
  const Matrix<T> target(total, 4, 12);
  const auto expected = train_alone(x, target, steps, affine);
  REQUIRE(expected.front() != expected.back());
  for (const auto& trace : train_on_ranks(ranks, x, target, steps, first, affine)) {
    REQUIRE(trace.size() == expected.size());
    for (std::size_t step = 0; step < trace.size(); ++step) {
      INFO("step " << step);
      CHECK(differs(trace[step], expected[step], default_tolerance<T>) == "");
    }
  }
}

// A layer alone in its network, trained on squared error: parameters and running statistics after each step.
template <class T>
void check_training_of_layer(int ranks, std::vector<Index> extents, int steps, Layout layout = Layout::contiguous) {
  const Index per_rank = extents[0];
  extents[0] *= ranks;
  const auto x = random<T>(extents, 21, layout);
  const Numbers target = values(shape_of(extents).elements(), 22);
  const auto train = [&](auto& layer, const Activations<T>& mine, const Numbers& my_target,
                         const std::function<void()>& reduce) {
    std::vector<Numbers> trace;
    Activations<T> y(mine.extents(), layout), dx(mine.extents(), layout);
    for (int step = 0; step < steps; ++step) {
      const auto saved = layer.forward(mine, y);
      Numbers dy = y.numbers();
      for (std::size_t i = 0; i < dy.size(); ++i) dy[i] = 2 * (dy[i] - my_target[i]) / static_cast<Number>(dy.size());
      layer.backward(Activations<T>(mine.extents(), dy, layout), mine, saved, dx);
      reduce();
      descend(layer.weight(), layer.weight_grad());
      descend(layer.bias(), layer.bias_grad());
      layer.zero_grad();
      const LayerSnapshot snapshot(layer);
      Numbers all;
      for (const Numbers& tensor : snapshot.tensors) append(all, tensor);
      trace.push_back(all);
    }
    return trace;
  };
  syncbn::BatchNorm<syncbn::any_dims, syncbn::CpuBackend<T>> alone(extents[1]);
  const auto expected = train(alone, x, target, [] {});
  const auto traces = on_thread_ranks(ranks, [&](ThreadCommunicator communicator) {
    syncbn::SyncBatchNorm<syncbn::CpuBackend<T>, ThreadCommunicator> layer(extents[1], {}, communicator);
    const Index first = per_rank * communicator.rank();
    const auto mine = samples(x, first, first + per_rank, layout);
    const auto sample = static_cast<std::ptrdiff_t>(target.size()) / extents[0];
    const auto from = target.begin() + first * sample;
    return train(layer, mine, Numbers(from, from + per_rank * sample), [&] {
      average(communicator, layer.weight_grad());
      average(communicator, layer.bias_grad());
    });
  });
  for (const auto& trace : traces) {
    for (std::size_t step = 0; step < trace.size(); ++step) {
      INFO("step " << step);
      CHECK(differs(trace[step], expected[step], default_tolerance<T>) == "");
    }
  }
}

}  // namespace

TEST_CASE("upstream 29: any formats of input and gradient give the same input gradient", "[upstream][ranks]") {
  std::vector<Numbers> all;
  for (const Layout x_layout : all_layouts) {
    for (const Layout dy_layout : all_layouts) {
      for (const Layout dx_layout : all_layouts) {
        const auto dx = on_thread_ranks(3, [&](ThreadCommunicator communicator) {
          const auto seed = static_cast<std::uint64_t>(communicator.rank());
          Synced<2> layer(3, {}, communicator);
          scramble(layer);
          const auto x = random<float>({2, 3, 2, 1}, seed, x_layout);
          Activations<float> y(x.extents()), gradient(x.extents(), dx_layout);
          const auto saved = layer.forward(x, y);
          layer.backward(random<float>({2, 3, 2, 1}, seed + 10, dy_layout), x, saved, gradient);
          return gradient.numbers();
        });
        all.push_back(dx[0]);
        append(all.back(), dx[1]);
        append(all.back(), dx[2]);
      }
    }
  }
  for (const Numbers& dx : all) CHECK(dx == all.front());
}

TEST_CASE("upstream 32: a network trained on ranks is one trained alone", "[upstream][ranks]") {
  for (const int ranks : {2, 3, 4}) {
    const auto two_each = [](int rank) { return static_cast<std::size_t>(2 * rank); };
    check_training<float>(ranks, static_cast<std::size_t>(2 * ranks), 5, two_each);
    check_training<double>(ranks, static_cast<std::size_t>(2 * ranks), 5, two_each);
  }
}

TEST_CASE("upstream 33: the same without parameters", "[upstream][ranks]") {
  for (const int ranks : {2, 3}) {
    const auto two_each = [](int rank) { return static_cast<std::size_t>(2 * rank); };
    check_training<float>(ranks, static_cast<std::size_t>(2 * ranks), 2, two_each, false);
  }
}

TEST_CASE("upstream 34: inputs of two dimensions", "[upstream][ranks]") {
  for (const int ranks : {2, 3}) {
    check_training_of_layer<float>(ranks, {2, 2}, 5);
    check_training_of_layer<double>(ranks, {2, 2}, 5);
  }
}

TEST_CASE("upstream 35: one sample on each rank", "[upstream][ranks]") {
  check_training_of_layer<float>(2, {1, 2}, 5);
  check_training_of_layer<double>(2, {1, 2}, 5);
}

TEST_CASE("upstream 36: running statistics of inputs of different sizes", "[upstream][ranks]") {
  for (const int ranks : {2, 3}) {
    std::vector<std::vector<Index>> extents;
    std::vector<Numbers> parts;
    Numbers all_values[2];
    for (int r = 0; r < ranks; ++r) {
      const auto length = static_cast<std::size_t>(std::lround(std::pow(10, r + 1)));
      extents.push_back({2, 2, static_cast<Index>(length)});
      Numbers part;
      for (int n = 0; n < 2; ++n) {
        for (const double base : {0.1, 0.3}) {
          const auto value = static_cast<Number>(static_cast<float>(std::pow(base, r - 1)));
          append(part, Numbers(length, value));
          append(all_values[base == 0.1 ? 0 : 1], Numbers(length, value));
        }
      }
      parts.push_back(part);
    }
    Numbers mean, var;
    for (const Numbers& channel : all_values) {
      const oracle::Statistics exact = oracle::statistics(channel, {channel.size(), 1, 1});
      mean.push_back(exact.mean[0]);
      var.push_back(exact.unbiased_variance(0));
    }
    const auto results = on_thread_ranks(ranks, [&](ThreadCommunicator communicator) {
      const auto rank = static_cast<std::size_t>(communicator.rank());
      Synced<1> layer(2, {.momentum = 0.99}, communicator);
      const Activations<float> x(extents[rank], parts[rank]);
      Activations<float> y(x.extents());
      for (int step = 0; step < 100; ++step) (void)layer.forward(x, y);
      return LayerSnapshot(layer);
    });
    for (const LayerSnapshot& result : results) {
      CHECK(differs(result.tensors[4], mean, default_tolerance<float>) == "");
      CHECK(differs(result.tensors[5], var, default_tolerance<float>) == "");
    }
  }
}

TEST_CASE("upstream 37: gradients of inputs of different sizes", "[upstream][ranks]") {
  for (const int ranks : {2, 3, 4}) {
    // Rank r has r + 2 samples, from r (r + 3) / 2 on.
    const auto first = [](int rank) { return static_cast<std::size_t>(rank * (rank + 3) / 2); };
    check_training<float>(ranks, first(ranks), 5, first);
    check_training<double>(ranks, first(ranks), 5, first);
  }
}

TEST_CASE("upstream 38: channels-last inputs", "[upstream][ranks]") {
  for (const int ranks : {2, 3}) {
    check_training_of_layer<float>(ranks, {2, 2, 4, 4}, 3, Layout::channels_last);
    check_training_of_layer<double>(ranks, {2, 2, 4, 4}, 3, Layout::channels_last);
  }
}

TEST_CASE("upstream 39: f16 tensors on ranks (parameters are f32)", "[upstream][ranks]") {
  const auto finite = on_thread_ranks(2, [](ThreadCommunicator communicator) {
    Synced<2> layer(3, {}, communicator);
    const auto x = random<syncbn::Float16>({2, 3, 4, 4}, static_cast<std::uint64_t>(communicator.rank()));
    Activations<syncbn::Float16> y(x.extents()), dx(x.extents());
    const auto saved = layer.forward(x, y);
    layer.backward(y, x, saved, dx);
    bool result = true;
    for (const Numbers& numbers : {y.numbers(), dx.numbers(), numbers_of(layer.weight_grad())}) {
      for (const Number n : numbers) result &= std::isfinite(n);
    }
    return static_cast<int>(result);
  });
  CHECK(finite == std::vector<int>{1, 1});
}

TEST_CASE("upstream 40: training communicates, evaluation on one rank does not", "[upstream][ranks]") {
  using Recording = RecordingCommunicator<ThreadCommunicator>;
  const auto frames = on_thread_ranks(3, [](ThreadCommunicator thread) {
    Recording communicator(thread);
    syncbn::BatchNorm<2, syncbn::CpuBackend<>, Recording> layer(2, {.track_running_stats = false}, communicator);
    const auto x = random<float>({10, 2, 4, 4}, static_cast<std::uint64_t>(thread.rank()));
    Activations<float> y(x.extents()), dx(x.extents());
    const auto saved = layer.forward(x, y);
    layer.backward(y, x, saved, dx);
    const std::size_t in_training = communicator.record().started.size();
    communicator.record().clear();
    if (thread.rank() == 0) {
      layer.eval();
      const auto local = layer.forward(x, y);
      layer.backward(y, x, local, dx);
    }
    return std::pair(in_training, communicator.record().calls());
  });
  for (const auto& [in_training, in_evaluation] : frames) {
    CHECK(in_training == 2);  // one frame forward, one backward
    CHECK(in_evaluation == 0);
  }
}

TEST_CASE("upstream 41: inference on one rank while the others wait", "[upstream][ranks]") {
  const auto outputs = on_thread_ranks(2, [](ThreadCommunicator communicator) {
    Numbers all;
    if (communicator.rank() == 0) {
      Synced<2> layer(2, {.track_running_stats = false}, communicator);
      layer.eval();
      for (std::uint64_t i = 0; i < 6; ++i) {
        const auto x = random<float>({10, 2, 4, 4}, i);
        Activations<float> y(x.extents());
        (void)layer.forward(x, y);
        append(all, y.numbers());
      }
    }
    std::vector<double> barrier{1};
    syncbn::all_reduce_sum(communicator, barrier);
    return all;
  });
  Numbers expected;
  for (std::uint64_t i = 0; i < 6; ++i) {
    Plain<2> layer(2, {.track_running_stats = false});
    const auto x = random<float>({10, 2, 4, 4}, i);
    Activations<float> y(x.extents());
    (void)layer.forward(x, y);
    append(expected, y.numbers());
  }
  CHECK(differs(outputs[0], expected, default_tolerance<float>) == "");
}

TEST_CASE("upstream 43: conversion gives nested layers the group", "[upstream][ranks]") {
  struct Convolved {
    int channels;
  };
  const auto group = ThreadCommunicator::create(2);
  const auto network =
      std::pair(std::tuple(std::make_shared<Plain<2>>(64), Convolved{64}, std::array{std::make_shared<Plain<2>>(8)}),
                Plain<2>(3));
  const auto converted = syncbn::convert_sync_batchnorm(network, group[1]);
  const auto check_group = [](const auto& layer) {
    CHECK(layer.communicator().size() == 2);
    CHECK(layer.communicator().rank() == 1);
  };
  check_group(*std::get<0>(converted.first));
  check_group(*std::get<2>(converted.first)[0]);
  check_group(converted.second);
  CHECK(std::get<1>(converted.first).channels == 64);
}

TEST_CASE("upstream 44: empty inputs on one rank, then on all", "[upstream][ranks]") {
  for (const bool wants_gradient : {true, false}) {
    const auto finite = on_thread_ranks(3, [&](ThreadCommunicator communicator) {
      Synced<2> layer(2, {}, communicator);
      bool result = true;
      for (const bool all_empty : {false, true}) {
        const Index count = all_empty || communicator.rank() == 0 ? 0 : 1;
        const auto x = random<float>({count, 2, 11, 13}, static_cast<std::uint64_t>(communicator.rank()));
        Activations<float> y(x.extents()), dx(x.extents());
        const auto saved = layer.forward(x, y);
        const Activations<float> ones(x.extents(), Numbers(y.numbers().size(), 1));
        if (wants_gradient) {
          layer.backward(ones, x, saved, dx);
        } else {
          layer.backward(ones, x, saved, syncbn::no_gradient);
        }
        Numbers all = y.numbers();
        if (wants_gradient) append(all, dx.numbers());
        for (const Numbers& tensor : LayerSnapshot(layer).tensors) append(all, tensor);
        for (const Number n : all) result &= std::isfinite(n);
      }
      return static_cast<int>(result);
    });
    CHECK(finite == std::vector<int>{1, 1, 1});
  }
}

TEST_CASE("upstream 45: a network with empty inputs on one rank, then on all", "[upstream][ranks]") {
  const auto finite = on_thread_ranks(3, [](ThreadCommunicator communicator) {
    Convolution<float> convolution(2, 2, 30, 30, 1);
    Synced<2> layer(2, {}, communicator);
    Linear<float> linear(convolution.output_size(), 10, 2);
    bool result = true;
    for (const bool all_empty : {false, true}) {
      const std::size_t count = all_empty || communicator.rank() == 0 ? 0 : 3;
      const Matrix<float> x(count, 2 * 30 * 30, 3 + static_cast<std::uint64_t>(communicator.rank()));
      const std::vector<Index> extents{static_cast<Index>(count), 2, 28, 28};
      Matrix<float> hidden = convolution.forward(x);
      Matrix<float> normal(count, hidden.columns), slope(count, hidden.columns);
      const auto saved = layer.forward(hidden.view(extents), normal.view(extents));
      Matrix<float> y = linear.forward(normal);
      Matrix<float> ones(count, 10);
      for (float& v : ones.at) v = 1;
      Matrix<float> back = linear.backward(normal, ones);
      layer.backward(back.view(extents), hidden.view(extents), saved, slope.view(extents));
      convolution.backward(x, slope);
      for (const auto* numbers : {&y.at, &slope.at, &convolution.gradient.at, &linear.gradient.at}) {
        for (const float n : *numbers) result &= std::isfinite(n);
      }
      for (const Numbers& tensor : LayerSnapshot(layer).tensors) {
        for (const Number n : tensor) result &= std::isfinite(n);
      }
    }
    return static_cast<int>(result);
  });
  CHECK(finite == std::vector<int>{1, 1, 1});
}

TEST_CASE("upstream 47: counting values by rank, averaged gradients", "[upstream][ranks]") {
  constexpr Tolerance tolerance{1e-6L, 1e-8L};
  for (const int ranks : {2, 4}) {
    for (const bool two_values : {true, false}) {
      // Channel k of rank r: k r and k r + 1, or k r + 1 alone.
      Numbers all;
      for (int r = 0; r < ranks; ++r) {
        for (int k = 1; k <= 4; ++k) {
          if (two_values) all.push_back(k * r);
          all.push_back(k * r + 1);
        }
      }
      const Index length = two_values ? 2 : 1;
      const Activations<float> stacked({ranks, 4, length}, all);
      Plain<1> plain(4);
      Activations<float> expected_y(stacked.extents()), expected_dx(stacked.extents());
      const auto expected = plain.forward(stacked, expected_y);
      // Of y.mean(0).sum().
      plain.backward(Activations<float>(stacked.extents(), Numbers(all.size(), 1 / static_cast<Number>(ranks))),
                     stacked, expected, expected_dx);

      struct Result {
        Numbers y, dx, mean, var, weight_grad, bias_grad;
      };
      const auto results = on_thread_ranks(ranks, [&](ThreadCommunicator communicator) {
        Synced<1> layer(4, {}, communicator);
        const auto x = samples(stacked, communicator.rank(), communicator.rank() + 1);
        Activations<float> y(x.extents()), dx(x.extents());
        const auto saved = layer.forward(x, y);
        // Of y.sum().
        layer.backward(Activations<float>(x.extents(), Numbers(y.numbers().size(), 1)), x, saved, dx);
        average(communicator, layer.weight_grad());
        average(communicator, layer.bias_grad());
        return Result{y.numbers(),
                      dx.numbers(),
                      numbers_of(layer.running_mean()),
                      numbers_of(layer.running_var()),
                      numbers_of(layer.weight_grad()),
                      numbers_of(layer.bias_grad())};
      });
      Numbers y, dx;
      for (const Result& result : results) {
        append(y, result.y);
        append(dx, result.dx);
        CHECK(differs(result.mean, numbers_of(plain.running_mean()), tolerance) == "");
        CHECK(differs(result.var, numbers_of(plain.running_var()), tolerance) == "");
        // The exact weight gradient of a sum is 0: what is left is rounding, of up to `ranks` terms of size 1.
        CHECK(differs(result.weight_grad, numbers_of(plain.weight_grad()), {1e-6L, 1e-6L}) == "");
        CHECK(differs(result.bias_grad, numbers_of(plain.bias_grad()), tolerance) == "");
      }
      CHECK(differs(y, expected_y.numbers(), tolerance) == "");
      // Exactly 0 here too.
      CHECK(differs(dx, Numbers(dx.size(), 0), {0, 1e-6L}) == "");
      CHECK(differs(expected_dx.numbers(), Numbers(dx.size(), 0), {0, 1e-6L}) == "");
    }
  }
}

TEST_CASE("upstream 48: six tensors equal those of the whole batch", "[upstream][ranks]") {
  constexpr Tolerance isclose{1e-5L, 1e-8L};
  const int ranks = 2;
  Numbers all;
  for (std::uint64_t r = 0; r < 2; ++r) append(all, values(32 * 8 * 16 * 16, r));
  const Activations<float> whole({64, 8, 16, 16}, all);
  const Activations<float> dy(whole.extents(), values(all.size(), 7));
  Plain<2> plain(8);
  Activations<float> expected_y(whole.extents()), expected_dx(whole.extents());
  const auto expected = plain.forward(whole, expected_y);
  plain.backward(dy, whole, expected, expected_dx);
  struct Result {
    Numbers y, dx;
    LayerSnapshot state;
  };
  const auto results = on_thread_ranks(ranks, [&](ThreadCommunicator communicator) {
    Synced<2> layer(8, {}, communicator);
    const Index first = 32 * communicator.rank();
    const auto x = samples(whole, first, first + 32);
    Activations<float> y(x.extents()), dx(x.extents());
    const auto saved = layer.forward(x, y);
    layer.backward(samples(dy, first, first + 32), x, saved, dx);
    return Result{y.numbers(), dx.numbers(), LayerSnapshot(layer)};
  });
  Numbers y, dx, weight_grad(8), bias_grad(8);
  for (const Result& result : results) {
    append(y, result.y);
    append(dx, result.dx);
    for (std::size_t c = 0; c < 8; ++c) {
      weight_grad[c] += result.state.tensors[2][c];
      bias_grad[c] += result.state.tensors[3][c];
    }
    CHECK(differs(result.state.tensors[4], numbers_of(plain.running_mean()), isclose) == "");
    CHECK(differs(result.state.tensors[5], numbers_of(plain.running_var()), isclose) == "");
  }
  CHECK(differs(y, expected_y.numbers(), isclose) == "");
  CHECK(differs(dx, expected_dx.numbers(), isclose) == "");
  CHECK(differs(weight_grad, numbers_of(plain.weight_grad()), isclose) == "");
  CHECK(differs(bias_grad, numbers_of(plain.bias_grad()), isclose) == "");
}

namespace {

// Ranks against an exact reference on the batch of their group, group by group. @param counts  samples of each rank.
template <class T, class P>
void check_groups(const std::vector<Index>& counts, int group_size, std::vector<Index> inner, Tolerance tolerance,
                  Tolerance parameter_tolerance, Number first_rank_scale) {
  struct Result {
    Numbers x, dy, y, dx;
    LayerSnapshot state;
  };
  const auto ranks = static_cast<int>(counts.size());
  const auto results = on_thread_ranks(ranks, [&](ThreadCommunicator world) {
    const int rank = world.rank();
    ThreadCommunicator group = world.split(rank / group_size, rank);
    Synced<2, P> layer(inner[0], {.momentum = 1.0}, group);
    std::vector<Index> extents = inner;
    extents.insert(extents.begin(), counts[static_cast<std::size_t>(rank)]);
    Numbers numbers = values(shape_of(extents).elements(), static_cast<std::uint64_t>(rank));
    if (rank == 0) {
      for (Number& n : numbers) n *= first_rank_scale;
    }
    const Activations<T> x(extents, numbers);
    const auto dy = random<T>(extents, 100 + static_cast<std::uint64_t>(rank));
    Activations<T> y(extents), dx(extents);
    const auto saved = layer.forward(x, y);
    layer.backward(dy, x, saved, dx);
    return Result{x.numbers(), dy.numbers(), y.numbers(), dx.numbers(), LayerSnapshot(layer)};
  });
  for (int g = 0; g < ranks / group_size; ++g) {
    Result all;
    std::vector<Index> extents = inner;
    extents.insert(extents.begin(), 0);
    const auto channels = static_cast<std::size_t>(inner[0]);
    Numbers weight_grad(channels), bias_grad(channels);
    for (int i = 0; i < group_size; ++i) {
      const auto r = static_cast<std::size_t>(g * group_size + i);
      append(all.x, results[r].x);
      append(all.dy, results[r].dy);
      append(all.y, results[r].y);
      append(all.dx, results[r].dx);
      extents[0] += counts[r];
      for (std::size_t c = 0; c < channels; ++c) {
        weight_grad[c] += results[r].state.tensors[2][c];
        bias_grad[c] += results[r].state.tensors[3][c];
      }
    }
    const oracle::Shape shape = shape_of(extents);
    const oracle::Statistics statistics = oracle::statistics(all.x, shape);
    const oracle::Gradients gradients = oracle::backward_batch(all.x, all.dy, shape, statistics, {}, 1e-5L);
    CHECK(differs(all.y, oracle::normalize(all.x, shape, statistics, {}, {}, 1e-5L), tolerance) == "");
    CHECK(differs(all.dx, gradients.x, tolerance) == "");
    CHECK(differs(weight_grad, gradients.weight, parameter_tolerance) == "");
    CHECK(differs(bias_grad, gradients.bias, parameter_tolerance) == "");
    Numbers var;
    for (std::size_t c = 0; c < channels; ++c) var.push_back(statistics.unbiased_variance(c));
    for (int i = 0; i < group_size; ++i) {
      const auto r = static_cast<std::size_t>(g * group_size + i);
      CHECK(differs(results[r].state.tensors[4], statistics.mean, tolerance) == "");
      CHECK(differs(results[r].state.tensors[5], var, tolerance) == "");
    }
  }
}

}  // namespace

TEST_CASE("upstream 49: batches of different sizes and ranges", "[upstream][ranks]") {
  check_groups<float, float>({16, 8}, 2, {6, 8, 8}, {1e-5L, 1e-5L}, {1e-6L, 1e-6L}, 50);
}

TEST_CASE("upstream 50: groups of ranks", "[upstream][ranks]") {
  const std::vector<Index> counts(4, 32);
  check_groups<float, float>(counts, 2, {10, 40, 40}, {1e-5L, 1e-5L}, {1e-5L, 1e-5L}, 1);
  check_groups<double, double>(counts, 2, {10, 40, 40}, {1e-8L, 1e-8L}, {1e-8L, 1e-8L}, 1);
  check_groups<syncbn::Float16, float>(counts, 2, {10, 40, 40}, {1e-3L, 1e-3L}, {1e-3L, 1e-3L}, 1);
  check_groups<float, float>(counts, 4, {10, 10, 10}, {1e-5L, 1e-5L}, {1e-5L, 1e-5L}, 1);
}

TEST_CASE("central differences of the sum of all ranks' losses", "[upstream][ranks]") {
  // What the gradients are of: dx of the sum of all ranks' losses, sums over ranks of the parameters' gradients likewise.
  for (const std::vector<Index>& counts : {std::vector<Index>{2, 1}, {3, 0, 1}, {1, 1, 1}}) {
    const auto ranks = static_cast<int>(counts.size());
    Index total = 0;
    for (const Index c : counts) total += c;
    const std::vector<Index> extents{total, 2, 2};
    const auto dy = random<double>(extents, 2);
    struct Point {
      Numbers x, weight, bias;
    };
    const auto run = [&](const Point& at) {
      const Activations<double> x(extents, at.x);
      return on_thread_ranks(ranks, [&](ThreadCommunicator communicator) {
        const auto rank = static_cast<std::size_t>(communicator.rank());
        Index first = 0;
        for (std::size_t r = 0; r < rank; ++r) first += counts[r];
        Synced<1, double> layer(2, {}, communicator);
        assign(layer.weight(), at.weight);
        assign(layer.bias(), at.bias);
        const auto mine = samples(x, first, first + counts[rank]);
        const auto my_dy = samples(dy, first, first + counts[rank]);
        Activations<double> y(mine.extents()), dx(mine.extents());
        const auto saved = layer.forward(mine, y);
        layer.backward(my_dy, mine, saved, dx);
        return std::tuple(dot(y.numbers(), my_dy.numbers()), dx.numbers(), numbers_of(layer.weight_grad()),
                          numbers_of(layer.bias_grad()));
      });
    };
    const auto loss = [&](const Point& at) {
      Number sum = 0;
      for (const auto& rank : run(at)) sum += std::get<0>(rank);
      return sum;
    };
    const Point at{values(shape_of(extents).elements(), 1), values(2, 3, 1, 0.5L), values(2, 4)};
    Numbers dx, weight_grad(2), bias_grad(2);
    for (const auto& rank : run(at)) {
      append(dx, std::get<1>(rank));
      for (std::size_t c = 0; c < 2; ++c) {
        weight_grad[c] += std::get<2>(rank)[c];
        bias_grad[c] += std::get<3>(rank)[c];
      }
    }
    const auto of_x = [&](const Numbers& v) { return loss({v, at.weight, at.bias}); };
    const auto of_weight = [&](const Numbers& v) { return loss({at.x, v, at.bias}); };
    const auto of_bias = [&](const Numbers& v) { return loss({at.x, at.weight, v}); };
    CHECK(differs(dx, numerical_gradient(of_x, at.x), gradcheck) == "");
    CHECK(differs(weight_grad, numerical_gradient(of_weight, at.weight), gradcheck) == "");
    CHECK(differs(bias_grad, numerical_gradient(of_bias, at.bias), gradcheck) == "");
  }
}
