#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <tuple>
#include <type_traits>
#include <vector>

#include <syncbn/backends/cpu_backend.hpp>
#include <syncbn/passes.hpp>

#include "support/activations.hpp"
#include "support/bounds.hpp"
#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/parallel_loop.hpp"
#include "support/placed.hpp"

// What the tests of the processor's kernels share: a training step through the split API, on tensors anywhere in
// memory.

namespace cpu_backend_test {

using syncbn::Index;
using syncbn::TensorView;
using syncbn_test::Number;
using syncbn_test::Numbers;
using syncbn_test::Placed;
using syncbn_test::Placement;
using syncbn_test::same_bits;
namespace bounds = syncbn_test::bounds;
namespace oracle = syncbn_test::oracle;

// Elements of format T with parameters of type P.
template <class T, class P>
struct Case {
  using Element = T;
  using Parameter = P;
};

template <class T, class P>
bounds::Formats formats() {
  bounds::Formats result{};
  result.v = bounds::unit_roundoff<P>;
  result.smallest = std::numeric_limits<P>::denorm_min();
  if constexpr (!std::is_same_v<T, P>) {
    result.w = syncbn_test::epsilon_of<T> / 2;
    result.smallest_element = syncbn_test::smallest_of<T>() / 2;
  }
  return result;
}

// ---- Data -----------------------------------------------------------------------------------------------------------

template <class T, class P>
struct Problem {
  std::vector<Index> extents;
  std::vector<T> x, dy;  // logical order
  std::vector<P> weight, bias;
  double eps = 1e-5;

  oracle::Shape shape() const { return syncbn_test::shape_of(extents); }
  std::size_t channels() const { return weight.size(); }
};

// Between -1 and 1, with as many digits as a double has.
inline double uniform(std::mt19937& random) {
  const double high = static_cast<double>(random()) * 0x1p-31;
  return high + static_cast<double>(random()) * 0x1p-63 - 1;
}

// Channels of all kinds: about 0, far from it, nearly constant.
template <class T, class P>
Problem<T, P> some_problem(const std::vector<Index>& extents) {
  Problem<T, P> result;
  result.extents = extents;
  const oracle::Shape shape = result.shape();
  std::mt19937 random(static_cast<std::uint32_t>(shape.elements() + 17 * shape.channels));
  const bool wide = std::is_floating_point_v<T>;
  const double means[] = {0, 1, -3, wide ? 1e5 : 100, 0.01};
  const double deviations[] = {1, 0.5, 20, 0.001};
  for (std::size_t c = 0; c < shape.channels; ++c) {
    result.weight.push_back(static_cast<P>(uniform(random) + 0.5));
    result.bias.push_back(static_cast<P>(uniform(random)));
  }
  oracle::detail::for_each_element(shape, [&](std::size_t, std::size_t c) {
    result.x.push_back(syncbn_test::element<T>(means[c % 5] + deviations[c % 4] * uniform(random)));
    result.dy.push_back(syncbn_test::element<T>(uniform(random) + 0.25));
  });
  return result;
}

// Every number of channels about the width of a group of lanes, every number of elements about that of a block.
inline std::vector<std::vector<Index>> small_shapes() {
  return {{4, 7, 5, 3}, {3, 8, 11},   {5, 9},      {2, 17, 2, 3, 2}, {2, 1, 3, 1, 2, 1, 2, 3},
          {33, 1},      {1, 8, 2},    {2, 300, 3}, {70, 300},        {1, 1, 2047},
          {1, 2, 2048}, {3, 9, 683},  {2049, 8},   {1, 3},           {1, 5, 1, 1},
          {2, 1, 1},    {9, 16, 1, 1}};
}
inline std::vector<std::vector<Index>> large_shapes() { return {{7, 8, 100, 100}, {70000, 1}, {10, 9, 7000}}; }
inline std::vector<std::vector<Index>> empty_shapes() {
  return {{0, 3, 4}, {4, 3, 0, 5}, {0, 3}, {0, 0}, {3, 0, 4}, {3, 0}};
}

// Large tensors go through the native layouts and one other unless everything is asked for.
inline std::vector<Placement> placements_of(const std::vector<Index>& extents) {
  const auto& all = syncbn_test::placements();
  if (SYNCBN_TEST_FULL || syncbn_test::shape_of(extents).elements() < 50000) return all;
  return {all[0], all[1], all[6]};
}

// ---- A step ---------------------------------------------------------------------------------------------------------

template <class P>
TensorView<P> whole(std::vector<P>& values) {
  return TensorView<P>(values.data(), {static_cast<Index>(values.size())});
}
template <class P>
TensorView<const P> whole(const std::vector<P>& values) {
  return TensorView<const P>(values.data(), {static_cast<Index>(values.size())});
}

template <class T, class P>
struct Step {
  double count = 0;
  std::vector<double> mean, m2, sum_dy, sum_dy_centred;
  std::vector<P> weight_grad, bias_grad;
  std::vector<T> y, dx;  // logical order
};

template <class T, class P>
bool same_bits_in_all(const Step<T, P>& a, const Step<T, P>& b) {
  return a.count == b.count && same_bits(a.mean, b.mean) && same_bits(a.m2, b.m2) && same_bits(a.sum_dy, b.sum_dy) &&
         same_bits(a.sum_dy_centred, b.sum_dy_centred) && same_bits(a.weight_grad, b.weight_grad) &&
         same_bits(a.bias_grad, b.bias_grad) && same_bits(a.y, b.y) && same_bits(a.dx, b.dx);
}

// Everything but y and dx, which the caller reads where they lie.
template <class T, class P, class Backend>
Step<T, P> train(Backend& backend, const Problem<T, P>& problem, TensorView<const T> x, TensorView<const T> dy,
                 TensorView<T> y, TensorView<T> dx) {
  const auto channels = static_cast<Index>(problem.channels());
  syncbn::Moments<Backend> moments(channels);
  accumulate(backend, x, moments);
  syncbn::Statistics<Backend> statistics;
  finalize(backend, moments, problem.eps, statistics);
  syncbn::GradientSums<Backend> sums(channels);
  accumulate(backend, dy, x, statistics, sums);
  syncbn::GradientCoefficients<Backend> coefficients;
  finalize(backend, sums, statistics, coefficients);

  Step<T, P> step;
  step.weight_grad.resize(problem.channels());
  step.bias_grad.resize(problem.channels());
  add_parameter_gradients(backend, sums, statistics, whole(step.weight_grad), whole(step.bias_grad));
  propagate(backend, dy, x, statistics, coefficients, whole(problem.weight), dx);
  normalize(backend, x, statistics, whole(problem.weight), whole(problem.bias), y);  // last: y may be x
  step.count = *moments.count();
  step.mean.assign(moments.mean(), moments.mean() + channels);
  step.m2.assign(moments.m2(), moments.m2() + channels);
  step.sum_dy.assign(sums.dy(), sums.dy() + channels);
  step.sum_dy_centred.assign(sums.dy_centred(), sums.dy_centred() + channels);
  return step;
}

template <class T, class P, class Backend = syncbn::CpuBackend<P>>
Step<T, P> train_at(const Problem<T, P>& problem, const Placement& in, const Placement& out,
                    Backend backend = Backend()) {
  Placed<T> x(problem.extents, in, problem.x);
  Placed<T> dy(problem.extents, in, problem.dy);
  Placed<T> y(problem.extents, out);
  Placed<T> dx(problem.extents, out);
  Step<T, P> step = train(backend, problem, x.read_only(), dy.read_only(), y.view(), dx.view());
  step.y = y.values();
  step.dx = dx.values();
  CAPTURE(in.name, out.name);
  if (!same_bits(x.values(), problem.x) || !same_bits(dy.values(), problem.dy)) FAIL("an input was written");
  if (!y.canaries_live() || !dx.canaries_live()) FAIL("written beside an output");
  return step;
}

// ---- The exact answer -----------------------------------------------------------------------------------------------

template <class T>
Numbers numbers(const std::vector<T>& elements) {
  Numbers result;
  for (const T& e : elements) result.push_back(syncbn_test::value_of(e));
  return result;
}

// Keeps the worst ratio of an error to its bound; each result is compared, one assertion tells.
class Within {
 public:
  explicit Within(const char* what) : what_(what) {}
  void compare(Number got, Number want, Number bound, std::size_t where) {
    const Number error = std::abs(got - want);
    const Number ratio = error == 0 ? 0 : error / bound;
    if (!(ratio <= worst_)) {
      worst_ = ratio;
      where_ = where;
      got_ = got;
      want_ = want;
      bound_ = bound;
    }
  }
  void report() const {
    CAPTURE(what_, where_, static_cast<double>(got_), static_cast<double>(want_), static_cast<double>(bound_));
    CHECK(static_cast<double>(worst_) <= 1);
  }

 private:
  const char* what_;
  Number worst_ = 0, got_ = 0, want_ = 0, bound_ = 0;
  std::size_t where_ = 0;
};

template <class T, class P>
struct Exact {
  oracle::Statistics moments;
  std::vector<bounds::PassFacts> passes;  // per channel
  std::vector<bounds::GradientFacts> gradient;
  Numbers y;
  oracle::Gradients gradients;

  explicit Exact(const Problem<T, P>& problem) {
    const oracle::Shape shape = problem.shape();
    const Numbers x = numbers(problem.x);
    const Numbers dy = numbers(problem.dy);
    const Numbers weight = numbers(problem.weight);
    const Numbers bias = numbers(problem.bias);
    moments = oracle::statistics(x, shape);
    y = oracle::normalize(x, shape, moments, weight, bias, problem.eps);
    gradients = oracle::backward_batch(x, dy, shape, moments, weight, problem.eps);
    passes.resize(shape.channels);
    gradient.resize(shape.channels);
    oracle::detail::for_each_element(shape, [&](std::size_t i, std::size_t c) {
      const Number deviation = std::abs(x[i] - moments.mean[c]);
      bounds::ChannelFacts& channel = passes[c].channel;
      channel.deviation = std::max(channel.deviation, deviation);
      gradient[c].dy += dy[i];
      gradient[c].dy_size += std::abs(dy[i]);
      gradient[c].dy_centred += dy[i] * (x[i] - moments.mean[c]);
      gradient[c].dy_centred_size += std::abs(dy[i]) * deviation;
    });
    for (std::size_t c = 0; c < shape.channels; ++c) {
      bounds::PassFacts& pass = passes[c];
      pass.channel.count = static_cast<Number>(shape.elements_per_channel());
      pass.channel.mean = moments.mean[c];
      pass.channel.m2 = moments.sum_of_squares[c];
      pass.mean_error = bounds::mean(pass.channel);
      pass.m2_error =
          std::is_same_v<T, double> ? bounds::m2_about_mean(pass.channel) : bounds::m2_about_first(pass.channel);
      pass.eps = problem.eps;
      pass.weight = weight[c];
      pass.bias = bias[c];
    }
  }
};

template <class T, class P>
void check_against(const Exact<T, P>& exact, const Problem<T, P>& problem, const Step<T, P>& step) {
  const bounds::Formats f = formats<T, P>();
  Within mean("mean"), m2("M2"), sum("sum dy"), centred("sum dy (x - mean)"), weight("weight_grad"), bias("bias_grad");
  for (std::size_t c = 0; c < problem.channels(); ++c) {
    const bounds::PassFacts& pass = exact.passes[c];
    const bounds::GradientFacts& gradient = exact.gradient[c];
    mean.compare(step.mean[c], exact.moments.mean[c], pass.mean_error, c);
    m2.compare(step.m2[c], exact.moments.sum_of_squares[c], pass.m2_error, c);
    sum.compare(step.sum_dy[c], gradient.dy, bounds::gradient_sum(pass.channel.count, gradient), c);
    centred.compare(step.sum_dy_centred[c], gradient.dy_centred, bounds::centred_gradient_sum(pass, gradient), c);
    weight.compare(step.weight_grad[c], exact.gradients.weight[c], bounds::weight_gradient(pass, gradient, f), c);
    bias.compare(step.bias_grad[c], exact.gradients.bias[c], bounds::bias_gradient(pass, gradient, f), c);
  }
  Within y("y"), dx("dx");
  oracle::detail::for_each_element(problem.shape(), [&](std::size_t i, std::size_t c) {
    const auto value = [&](T element) { return syncbn_test::value_of(element); };
    y.compare(value(step.y[i]), exact.y[i], bounds::normalized(exact.passes[c], f, value(problem.x[i]), exact.y[i]), i);
    dx.compare(value(step.dx[i]), exact.gradients.x[i],
               bounds::propagated(exact.passes[c], exact.gradient[c], f, value(problem.dy[i]), value(problem.x[i]),
                                  exact.gradients.x[i]),
               i);
  });
  CHECK(step.count == static_cast<double>(problem.shape().elements_per_channel()));
  for (const Within* result : {&mean, &m2, &sum, &centred, &weight, &bias, &y, &dx}) result->report();
}

}  // namespace cpu_backend_test
