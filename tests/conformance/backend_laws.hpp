/// @file
/// What a backend promises beyond what its concept can say: one function for each law and element format.
/// backend_laws.cpp runs them on the plug under test; a program with a Catch2 main of its own may call them on any type.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <syncbn/batch_norm.hpp>
#include <syncbn/check.hpp>
#include <syncbn/passes.hpp>
#include <syncbn/validation.hpp>

#include "conformance/backend_tensor.hpp"
#include "conformance/outcomes.hpp"
#include "support/activations.hpp"
#include "support/bounds.hpp"
#include "support/catch.hpp"
#include "support/layer_bounds.hpp"
#include "support/oracle.hpp"

namespace syncbn_test {

/// @brief Shapes of every kind: nothing, one value, few and many channels, vectors and their rest, several blocks of sums.
inline const std::vector<std::vector<Index>>& law_shapes() {
  static const std::vector<std::vector<Index>> shapes{
      {0, 3},       {2, 3, 0},      {4, 0},      {1, 1},          {1, 5, 1},          {7, 1},
      {5, 8},       {3, 19},        {2, 3, 7},   {2, 16, 4},      {3, 9, 5, 3},       {2, 2, 3, 2, 2},
      {1, 2, 2051}, {3, 1, 40, 41}, {700, 3, 3}, {2, 17, 29, 37}, {1, 2, 1, 2, 1, 3}, {9, 264}};
  return shapes;
}

namespace detail {

/// Moments or gradient sums as they are on the host.
struct HostMoments {
  double count = 0;
  std::vector<double> mean, m2;

  std::vector<double> all() const {
    std::vector<double> result{count};
    result.insert(result.end(), mean.begin(), mean.end());
    result.insert(result.end(), m2.begin(), m2.end());
    return result;
  }
};

template <class Backend>
HostMoments on_host(Backend& backend, const syncbn::Moments<Backend>& moments) {
  return {from_backend(backend, moments.count(), 1)[0], from_backend(backend, moments.mean(), moments.channels()),
          from_backend(backend, moments.m2(), moments.channels())};
}

template <class Backend>
std::vector<double> on_host(Backend& backend, const syncbn::GradientSums<Backend>& sums) {
  std::vector<double> result = from_backend(backend, sums.dy(), sums.channels());
  const std::vector<double> centred = from_backend(backend, sums.dy_centred(), sums.channels());
  result.insert(result.end(), centred.begin(), centred.end());
  return result;
}

template <class T, class Backend>
HostMoments moments_of(Backend& backend, const std::vector<Index>& extents, const std::vector<T>& x,
                       Placement placement) {
  const BackendTensor<Backend, T> tensor(backend, extents, placement, x);
  syncbn::Moments<Backend> moments(extents[1]);
  backend.accumulate(tensor.read(), moments.pointers());
  return on_host(backend, moments);
}

template <class T, class Backend>
std::vector<double> gradient_sums_of(Backend& backend, const std::vector<Index>& extents, const std::vector<T>& dy,
                                     const std::vector<T>& x, const std::vector<double>& mean, Placement dy_placement,
                                     Placement x_placement) {
  const BackendTensor<Backend, T> dy_tensor(backend, extents, dy_placement, dy);
  const BackendTensor<Backend, T> x_tensor(backend, extents, x_placement, x);
  const auto mean_there = to_backend(backend, mean);
  syncbn::GradientSums<Backend> sums(extents[1]);
  backend.accumulate(dy_tensor.read(), x_tensor.read(), mean_there.data(),
                     syncbn::GradientSumsPointers{sums.dy(), sums.dy_centred()});
  return on_host(backend, sums);
}

inline std::vector<bounds::ChannelFacts> facts_of(const Numbers& x, const oracle::Shape& shape) {
  const oracle::Statistics exact = oracle::statistics(x, shape);
  std::vector<bounds::ChannelFacts> facts(shape.channels);
  for (std::size_t c = 0; c < shape.channels; ++c) {
    facts[c] = {static_cast<Number>(shape.elements_per_channel()), exact.mean[c], exact.sum_of_squares[c], 0};
  }
  oracle::detail::for_each_element(shape, [&](std::size_t i, std::size_t c) {
    facts[c].deviation = std::max(facts[c].deviation, std::abs(x[i] - facts[c].mean));
  });
  return facts;
}

// What is allowed to any backend: sums in double of at most n terms in any order, about shifts within the range of the
// data (so that |x - shift| <= 2R), in at most 64 parts that are merged. The bounds of our own backend's grid of sums, in
// support/bounds.hpp, are tighter.
inline constexpr Number parts = 64;
inline Number any_mean_error(const bounds::ChannelFacts& f) {
  return bounds::gamma(f.count + 4 * parts) * 2 * f.deviation + bounds::gamma(parts) * std::abs(f.mean);
}
// Squares and their sums, relative to n (2R)^2; and the means of parts, which err by E: see bounds::m2_of_squares().
inline Number any_m2_error(const bounds::ChannelFacts& f) {
  const Number mean_error = any_mean_error(f);
  return bounds::gamma(3 * f.count + 8 * parts) * f.count * 4 * f.deviation * f.deviation +
         4 * mean_error * std::sqrt(3 * f.count * f.m2) + 12 * mean_error * mean_error * f.count;
}

inline Comparison compare(const HostMoments& got, const std::vector<bounds::ChannelFacts>& facts, Number factor = 1) {
  Comparison comparison;
  for (std::size_t c = 0; c < facts.size(); ++c) {
    comparison.add("count", c, got.count, facts[c].count, 0);
    comparison.add("mean", c, got.mean[c], facts[c].mean, factor * any_mean_error(facts[c]));
    comparison.add("m2", c, got.m2[c], facts[c].m2, factor * any_m2_error(facts[c]));
    if (got.m2[c] < 0) comparison.add("a negative m2", c, 1, 0, 0);
  }
  return comparison;
}

// Sums of the gradient: n additions in any order, and two roundings of each term.
inline Comparison compare(const std::vector<double>& got, const std::vector<Index>& extents, const Numbers& dy,
                          const Numbers& x, const std::vector<double>& mean) {
  const oracle::Shape shape = shape_of(extents);
  Numbers exact(2 * shape.channels), sizes(2 * shape.channels);
  oracle::detail::for_each_element(shape, [&](std::size_t i, std::size_t c) {
    const Number centred = x[i] - mean[c];
    exact[c] += dy[i];
    sizes[c] += std::abs(dy[i]);
    exact[shape.channels + c] += dy[i] * centred;
    sizes[shape.channels + c] += std::abs(dy[i] * centred);
  });
  Comparison comparison;
  const Number roundings = static_cast<Number>(shape.elements_per_channel()) + 2;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    comparison.add("sums", i, got[i], exact[i], bounds::gamma(roundings) * sizes[i]);
  }
  return comparison;
}

// Coefficients of channels, in a backend's memory.
template <class Coefficients>
struct Lookup {
  const Coefficients* coefficients;
  SYNCBN_HOST_DEVICE Coefficients operator()(Index c) const noexcept { return coefficients[c]; }
};

struct AddOneTo {
  double* values;
  SYNCBN_HOST_DEVICE void operator()(Index c) const noexcept { values[c] += 1; }
};

template <class P>
P noise_as(std::uint64_t seed, Index i) {
  return static_cast<P>(noise(seed, static_cast<std::uint64_t>(i)));
}

template <class P>
std::vector<syncbn::NormalizeCoefficients<P>> some_normalize_coefficients(Index channels) {
  std::vector<syncbn::NormalizeCoefficients<P>> all;
  for (Index c = 0; c < channels; ++c) all.push_back({3 * noise_as<P>(11, c), noise_as<P>(12, c), noise_as<P>(13, c)});
  return all;
}
template <class P>
std::vector<syncbn::PropagateCoefficients<P>> some_propagate_coefficients(Index channels) {
  std::vector<syncbn::PropagateCoefficients<P>> all;
  for (Index c = 0; c < channels; ++c) {
    all.push_back(
        {noise_as<P>(21, c), 3 * noise_as<P>(22, c), noise_as<P>(23, c), noise_as<P>(24, c), noise_as<P>(25, c)});
  }
  return all;
}

// Rounding to the elements' format where it is narrower than P; an underflow loses its smallest number.
template <class T, class P>
Number stored_error(Number error, Number result) {
  const Number smallest = sizeof(T) == 2 ? Number{1} / (1 << 25) : Number{std::numeric_limits<float>::min()};
  const Number narrowed = epsilon_of<T> > epsilon_of<P> ? epsilon_of<T> / 2 * (std::abs(result) + error) : Number{0};
  return (error + narrowed) * (1 + 16 * epsilon_of<P>)+(std::is_same_v<T, double> ? Number{0} : smallest);
}

// y = (x - mean) * scale + offset: each of the three operations rounds; the first two relative to their result.
template <class T, class P>
Numbers normalize_bound(Number x, const syncbn::NormalizeCoefficients<P>& k) {
  const Number v = epsilon_of<P> / 2;
  const Number product = (x - k.mean) * k.scale;
  const Number y = product + k.offset;
  return {y, stored_error<T, P>(v * (2 * std::abs(product) + std::abs(y)), y)};
}

// dx = ((dy - dy_mean) - (x - mean) * slope) * scale + offset: two roundings on the way of (x - mean) * slope, one of
// dy - dy_mean, one of their difference, one of the product with the scale, one of the sum.
template <class T, class P>
Numbers propagate_bound(Number dy, Number x, const syncbn::PropagateCoefficients<P>& k) {
  const Number v = epsilon_of<P> / 2;
  const Number gradient = dy - k.dy_mean;
  const Number along = (x - k.mean) * k.slope;
  const Number dx = (gradient - along) * k.scale + k.offset;
  const Number error =
      v * (3 * std::abs(gradient) + 4 * std::abs(along)) * std::abs(static_cast<Number>(k.scale)) + v * std::abs(dx);
  return {dx, stored_error<T, P>(error, dx)};
}

template <class T, class Backend>
std::vector<T> normalized(Backend& backend, const std::vector<Index>& extents, const std::vector<T>& x, Placement from,
                          Placement to, bool& gaps_are_untouched) {
  using P = typename Backend::parameter_type;
  const auto coefficients = to_backend(backend, some_normalize_coefficients<P>(extents[1]));
  const Lookup<syncbn::NormalizeCoefficients<P>> lookup{coefficients.data()};
  const BackendTensor<Backend, T> input(backend, extents, from, x);
  BackendTensor<Backend, T> output(backend, extents, to);
  std::as_const(backend).normalize(input.read(), lookup, output.view());
  gaps_are_untouched = gaps_are_untouched && output.gaps_are_untouched() && input.gaps_are_untouched();
  return output.elements();
}

template <class T, class Backend>
std::vector<T> propagated(Backend& backend, const std::vector<Index>& extents, const std::vector<T>& dy,
                          const std::vector<T>& x, std::array<Placement, 3> places, bool& gaps_are_untouched) {
  using P = typename Backend::parameter_type;
  const auto coefficients = to_backend(backend, some_propagate_coefficients<P>(extents[1]));
  const Lookup<syncbn::PropagateCoefficients<P>> lookup{coefficients.data()};
  const BackendTensor<Backend, T> gradient(backend, extents, places[0], dy);
  const BackendTensor<Backend, T> input(backend, extents, places[1], x);
  BackendTensor<Backend, T> output(backend, extents, places[2]);
  std::as_const(backend).propagate(gradient.read(), input.read(), lookup, output.view());
  gaps_are_untouched = gaps_are_untouched && output.gaps_are_untouched();
  return output.elements();
}

inline Placement next(Placement placement, std::size_t steps) {
  return all_placements[(static_cast<std::size_t>(placement) + steps) % all_placements.size()];
}

}  // namespace detail

/// @brief Buffers keep what they have when they grow, and new entries are 0; uploads come back; the queue is the
/// backend's; for_each_channel visits each channel once.
template <class Backend>
void law_memory() {
  static_assert(syncbn::check_backend<Backend>());
  Backend backend;
  typename Backend::template buffer<double> buffer;
  CHECK(buffer.size() == 0);
  buffer.resize(3);
  const std::vector<double> values{1, 2, 3};
  backend.upload(values.data(), 3, buffer.data());
  buffer.resize(5);
  CHECK(from_backend(backend, static_cast<const double*>(buffer.data()), 5) == std::vector<double>{1, 2, 3, 0, 0});
  const auto copy = buffer;
  backend.for_each_channel(5, detail::AddOneTo{buffer.data()});
  backend.for_each_channel(0, detail::AddOneTo{buffer.data()});
  CHECK(from_backend(backend, static_cast<const double*>(buffer.data()), 5) == std::vector<double>{2, 3, 4, 1, 1});
  CHECK(from_backend(backend, static_cast<const double*>(copy.data()), 5) == std::vector<double>{1, 2, 3, 0, 0});
  CHECK(&backend.queue() == &backend.queue());
}

/// @brief Moments are those of the values, and never negative; they have the same bits wherever the elements lie.
template <class Backend, class T>
void law_moments() {
  Backend backend;
  for (const std::vector<Index>& extents : law_shapes()) {
    INFO("shape " << syncbn::shape_text(extents));
    const oracle::Shape shape = shape_of(extents);
    const std::vector<T> x = law_elements<T>(extents, 31);
    const detail::HostMoments moments = detail::moments_of<T>(backend, extents, x, Placement::rows);
    const auto check_bounds = [&](const detail::HostMoments& got) {
      if (x.empty()) return;
      const Comparison comparison = detail::compare(got, detail::facts_of(numbers_of(x), shape));
      INFO(comparison.place());
      CHECK(comparison.worst() <= 1);
    };
    check_bounds(moments);
    for (const Placement placement : all_placements) {
      INFO(name(placement));
      const detail::HostMoments there = detail::moments_of<T>(backend, extents, x, placement);
      if constexpr (detail::same_bits_in_any_layout<Backend>()) {
        CHECK(same_bits(there.all(), moments.all()));
      } else {
        check_bounds(there);
        CHECK(same_bits(there.all(), detail::moments_of<T>(backend, extents, x, placement).all()));
      }
    }
  }
}

/// @brief accumulate() adds: micro-batches of any sizes, some empty, come to the moments of all their values together; an
/// empty tensor changes no bit.
template <class Backend, class T>
void law_moments_add_up() {
  Backend backend;
  const std::vector<Index> extents{11, 9, 2, 3};
  const std::vector<T> x = law_elements<T>(extents, 32);
  const BackendTensor<Backend, T> tensor(backend, extents, Placement::channels_last, x);
  syncbn::Moments<Backend> moments(9);
  Index first = 0;
  for (const Index last : {Index{0}, Index{3}, Index{3}, Index{4}, Index{11}}) {
    const std::vector<double> before = detail::on_host(backend, moments).all();
    backend.accumulate(tensor.read().slice(0, first, last), moments.pointers());
    CHECK(same_bits(before, detail::on_host(backend, moments).all()) == (first == last));
    first = last;
  }
  const Comparison comparison =
      detail::compare(detail::on_host(backend, moments), detail::facts_of(numbers_of(x), shape_of(extents)));
  INFO(comparison.place());
  CHECK(comparison.worst() <= 1);
}

/// @brief A channel of one and the same value has that mean, and M2 = 0, both exactly; a NaN stays in its channel.
template <class Backend, class T>
void law_channels_are_apart() {
  Backend backend;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const Index channels : {Index{3}, Index{8}, Index{21}}) {
    const std::vector<Index> extents{5, channels, 3};
    std::vector<T> x(shape_of(extents).elements());
    std::vector<double> value(static_cast<std::size_t>(channels));
    for (std::size_t c = 0; c < value.size(); ++c)
      value[c] = static_cast<double>(value_of(element<T>(100 * noise(33, c))));
    value[1] = nan;
    oracle::detail::for_each_element(shape_of(extents),
                                     [&](std::size_t i, std::size_t c) { x[i] = element<T>(value[c]); });
    for (const Placement placement : all_placements) {
      INFO(channels << " channels, " << name(placement));
      const detail::HostMoments moments = detail::moments_of<T>(backend, extents, x, placement);
      CHECK(std::isnan(moments.mean[1]));
      bool exact = moments.count == 15;
      for (std::size_t c = 0; c < value.size(); ++c) {
        if (c != 1) exact = exact && moments.mean[c] == value[c] && moments.m2[c] == 0;
      }
      CHECK(exact);
    }
  }
}

/// @brief The sums of the gradient are those of the values, add up over micro-batches, and have the same bits wherever the
/// elements lie, those of dy and of x in different ways too (unless the backend says otherwise).
template <class Backend, class T>
void law_gradient_sums() {
  Backend backend;
  for (const std::vector<Index>& extents : law_shapes()) {
    INFO("shape " << syncbn::shape_text(extents));
    const std::vector<T> x = law_elements<T>(extents, 41);
    const std::vector<T> dy = law_elements<T>(extents, 42);
    std::vector<double> mean;
    for (Index c = 0; c < extents[1]; ++c) mean.push_back(noise(43, static_cast<std::uint64_t>(c)));
    const std::vector<double> sums =
        detail::gradient_sums_of<T>(backend, extents, dy, x, mean, Placement::rows, Placement::rows);

    const auto check_bounds = [&](const std::vector<double>& got) {
      const Comparison comparison = detail::compare(got, extents, numbers_of(dy), numbers_of(x), mean);
      INFO(comparison.place());
      CHECK(comparison.worst() <= 1);
    };
    check_bounds(sums);

    for (const Placement placement : all_placements) {
      for (const Placement other : {placement, detail::next(placement, 1)}) {
        INFO("dy " << name(placement) << ", x " << name(other));
        const auto again = [&] { return detail::gradient_sums_of<T>(backend, extents, dy, x, mean, placement, other); };
        const std::vector<double> there = again();
        if constexpr (detail::same_bits_in_any_layout<Backend>()) {
          CHECK(same_bits(there, sums));
        } else {
          check_bounds(there);
          CHECK(same_bits(there, again()));
        }
      }
    }
  }
}

/// @brief accumulate() of gradients adds to what is there; an empty tensor changes no bit.
template <class Backend, class T>
void law_gradient_sums_add_up() {
  Backend backend;
  const std::vector<Index> extents{7, 9, 5};
  const BackendTensor<Backend, T> x(backend, extents, Placement::rows, law_elements<T>(extents, 44));
  const BackendTensor<Backend, T> dy(backend, extents, Placement::rows, law_elements<T>(extents, 45));
  const auto mean = to_backend(backend, std::vector<double>(9, 0.5));
  const auto accumulate = [&](Index first, Index last, syncbn::GradientSums<Backend>& sums) {
    backend.accumulate(dy.read().slice(0, first, last), x.read().slice(0, first, last), mean.data(),
                       syncbn::GradientSumsPointers{sums.dy(), sums.dy_centred()});
  };
  syncbn::GradientSums<Backend> both(9), one(9), two(9);
  accumulate(0, 3, both);
  accumulate(3, 3, both);
  accumulate(3, 7, both);
  accumulate(0, 3, one);
  accumulate(3, 7, two);
  const std::vector<double> a = detail::on_host(backend, one);
  const std::vector<double> b = detail::on_host(backend, two);
  const std::vector<double> got = detail::on_host(backend, both);
  bool adds = true;  // one addition of two numbers: exactly rounded
  for (std::size_t i = 0; i < got.size(); ++i) adds = adds && got[i] == a[i] + b[i];
  CHECK(adds);
}

/// @brief normalize() evaluates its channel's coefficients for each element, with the same bits wherever the elements lie,
/// in place too, and touches nothing else.
template <class Backend, class T>
void law_normalize() {
  using P = typename Backend::parameter_type;
  Backend backend;
  for (const std::vector<Index>& extents : law_shapes()) {
    INFO("shape " << syncbn::shape_text(extents));
    const std::vector<T> x = law_elements<T>(extents, 51);
    bool untouched = true;
    const std::vector<T> y = detail::normalized<T>(backend, extents, x, Placement::rows, Placement::rows, untouched);
    const auto coefficients = detail::some_normalize_coefficients<P>(extents[1]);
    Comparison comparison;
    oracle::detail::for_each_element(shape_of(extents), [&](std::size_t i, std::size_t c) {
      const Numbers expected = detail::normalize_bound<T, P>(value_of(x[i]), coefficients[c]);
      comparison.add("y", i, value_of(y[i]), expected[0], expected[1]);
    });
    INFO(comparison.place());
    CHECK(comparison.worst() <= 1);

    for (const Placement placement : all_placements) {
      for (const Placement other : {placement, detail::next(placement, 1), detail::next(placement, 3)}) {
        INFO("x " << name(placement) << ", y " << name(other));
        CHECK(same_elements(detail::normalized<T>(backend, extents, x, placement, other, untouched), y));
      }
      INFO("in place, " << name(placement));
      const auto there = to_backend(backend, coefficients);
      BackendTensor<Backend, T> tensor(backend, extents, placement, x);
      std::as_const(backend).normalize(tensor.read(), detail::Lookup<syncbn::NormalizeCoefficients<P>>{there.data()},
                                       tensor.view());
      CHECK(same_elements(tensor.elements(), y));
      CHECK(tensor.gaps_are_untouched());
    }
    CHECK(untouched);
  }
}

/// @brief propagate() likewise; dx may be dy, or x.
template <class Backend, class T>
void law_propagate() {
  using P = typename Backend::parameter_type;
  Backend backend;
  for (const std::vector<Index>& extents : law_shapes()) {
    INFO("shape " << syncbn::shape_text(extents));
    const std::vector<T> x = law_elements<T>(extents, 61);
    const std::vector<T> dy = law_elements<T>(extents, 62);
    bool untouched = true;
    const auto in = [&](Placement a, Placement b, Placement c) {
      return detail::propagated<T>(backend, extents, dy, x, {a, b, c}, untouched);
    };
    const std::vector<T> dx = in(Placement::rows, Placement::rows, Placement::rows);
    const auto coefficients = detail::some_propagate_coefficients<P>(extents[1]);
    Comparison comparison;
    oracle::detail::for_each_element(shape_of(extents), [&](std::size_t i, std::size_t c) {
      const Numbers expected = detail::propagate_bound<T, P>(value_of(dy[i]), value_of(x[i]), coefficients[c]);
      comparison.add("dx", i, value_of(dx[i]), expected[0], expected[1]);
    });
    INFO(comparison.place());
    CHECK(comparison.worst() <= 1);

    const auto there = to_backend(backend, coefficients);
    const detail::Lookup<syncbn::PropagateCoefficients<P>> lookup{there.data()};
    for (const Placement placement : all_placements) {
      INFO(name(placement));
      CHECK(same_elements(in(placement, placement, placement), dx));
      CHECK(same_elements(in(placement, detail::next(placement, 1), detail::next(placement, 2)), dx));
      CHECK(same_elements(in(Placement::rows, placement, Placement::rows), dx));
      for (const bool over_dy : {true, false}) {
        INFO((over_dy ? "dx is dy" : "dx is x"));
        BackendTensor<Backend, T> a(backend, extents, placement, dy);
        BackendTensor<Backend, T> b(backend, extents, placement, x);
        std::as_const(backend).propagate(a.read(), b.read(), lookup, over_dy ? a.view() : b.view());
        CHECK(same_elements((over_dy ? a : b).elements(), dx));
      }
    }
    CHECK(untouched);
  }
}

/// @brief An input may stand still in a dimension (stride 0): its elements are read as often as the extent says.
template <class Backend, class T>
void law_broadcast() {
  Backend backend;
  const std::vector<Index> small{1, 5, 1};
  const std::vector<Index> extents{4, 5, 3};
  const BackendTensor<Backend, T> tensor(backend, small, Placement::rows, law_elements<T>(small, 71));
  const std::vector<T> values = tensor.elements();
  const std::vector<Index> strides{0, 1, 0};
  const syncbn::TensorView<const T, typename Backend::memory_space> broadcast(tensor.read().data(), extents, strides);
  std::vector<T> repeated(60);
  oracle::detail::for_each_element(shape_of(extents), [&](std::size_t i, std::size_t c) { repeated[i] = values[c]; });

  syncbn::Moments<Backend> moments(5);
  backend.accumulate(broadcast, moments.pointers());
  const detail::HostMoments got = detail::on_host(backend, moments);
  const Comparison comparison = detail::compare(got, detail::facts_of(numbers_of(repeated), shape_of(extents)));
  INFO(comparison.place());
  CHECK(comparison.worst() <= 1);

  const std::vector<double> centre(5, 0.25);
  const auto mean = to_backend(backend, centre);
  const std::vector<T> x = law_elements<T>(extents, 72);
  const BackendTensor<Backend, T> x_tensor(backend, extents, Placement::padded, x);
  syncbn::GradientSums<Backend> sums(5);
  backend.accumulate(broadcast, x_tensor.read(), mean.data(),
                     syncbn::GradientSumsPointers{sums.dy(), sums.dy_centred()});
  const std::vector<double> got_sums = detail::on_host(backend, sums);
  const Comparison of_sums = detail::compare(got_sums, extents, numbers_of(repeated), numbers_of(x), centre);
  INFO(of_sums.place());
  CHECK(of_sums.worst() <= 1);
  if constexpr (detail::same_bits_in_any_layout<Backend>()) {
    CHECK(same_bits(got.all(), detail::moments_of<T>(backend, extents, repeated, Placement::rows).all()));
    CHECK(same_bits(got_sums, detail::gradient_sums_of<T>(backend, extents, repeated, x, centre, Placement::rows,
                                                          Placement::rows)));
  }
}

/// @brief A copy shares no working memory: it works at the same time as the original. So do const calls of one backend.
template <class Backend, class T>
void law_copies_are_independent() {
  using P = typename Backend::parameter_type;
  Backend backend;
  const std::vector<Index> extents{40, 9, 7};
  std::array<std::vector<T>, 2> x{law_elements<T>(extents, 81), law_elements<T>(extents, 82)};
  std::array<std::vector<double>, 2> expected;
  std::array<std::vector<T>, 2> expected_y;
  bool untouched = true;
  for (std::size_t k = 0; k < 2; ++k) {
    expected[k] = detail::moments_of<T>(backend, extents, x[k], Placement::rows).all();
    expected_y[k] = detail::normalized<T>(backend, extents, x[k], Placement::rows, Placement::rows, untouched);
  }
  const Backend& shared = backend;
  const auto coefficients = to_backend(backend, detail::some_normalize_coefficients<P>(9));
  const detail::Lookup<syncbn::NormalizeCoefficients<P>> lookup{coefficients.data()};
  std::array<Backend, 2> copies{backend, backend};
  std::array<int, 2> wrong{};
  std::vector<std::thread> threads;
  for (std::size_t k = 0; k < 2; ++k) {
    threads.emplace_back([&, k] {
      for (int round = 0; round < 20; ++round) {
        const auto moments = detail::moments_of<T>(copies[k], extents, x[k], Placement::rows);
        if (!same_bits(moments.all(), expected[k])) ++wrong[k];
        BackendTensor<Backend, T> tensor(copies[k], extents, Placement::rows, x[k]);
        shared.normalize(tensor.read(), lookup, tensor.view());
        if (!same_elements(tensor.elements(), expected_y[k])) ++wrong[k];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::array<int, 2>{});
  copies[0] = copies[1];
  CHECK(same_bits(detail::moments_of<T>(copies[0], extents, x[0], Placement::rows).all(), expected[0]));
}

/// @brief The second pass of a layer that is alone does what the first of another does: what is left in working memory does
/// not count. (The three steps in one set their sums, where accumulate() adds to them.)
template <class Backend, class T>
void law_passes_of_a_layer() {
  Backend backend;
  const std::vector<Index> extents{8, 5, 7};
  const std::vector<T> before = law_elements<T>(extents, 91), x = law_elements<T>(extents, 92);
  const auto pass = [&](syncbn::BatchNorm<syncbn::any_dims, Backend>& layer, const std::vector<T>& elements) {
    BackendTensor<Backend, T> input(backend, extents, Placement::rows, elements);
    BackendTensor<Backend, T> y(backend, extents, Placement::rows), dx(backend, extents, Placement::rows);
    const auto saved = layer.forward(input.read(), y.view());
    layer.backward(y.read(), input.read(), saved, dx.view());
    std::vector<T> results = y.elements();
    const std::vector<T> gradients = dx.elements();
    results.insert(results.end(), gradients.begin(), gradients.end());
    return results;
  };
  syncbn::BatchNorm<syncbn::any_dims, Backend> used(5, {}, {}, backend), fresh(5, {}, {}, backend);
  static_cast<void>(pass(used, before));
  const std::vector<T> second = pass(used, x), first = pass(fresh, x);
  CHECK(same_elements(second, first));
}

}  // namespace syncbn_test
