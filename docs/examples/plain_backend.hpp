#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include <syncbn/core.hpp>

/// @file
/// A backend from nothing: plain loops, any strides, no dependencies.

namespace example {

// [begin loop]
// Calls f(a, b, ...) for the elements of tensors of one shape, in row-major order.
template <class F, class Tensor, class... Tensors>
void for_each_element(const F& f, const Tensor& first, const Tensors&... rest) {
  if (first.rank() == 0) return f(*first.data(), *rest.data()...);
  const auto row = [](const auto& tensor, syncbn::Index i) {
    using View = std::remove_cvref_t<decltype(tensor)>;
    return View(tensor.data() + i * tensor.stride(0), tensor.extents().subspan(1), tensor.strides().subspan(1));
  };
  for (syncbn::Index i = 0; i < first.extent(0); ++i) for_each_element(f, row(first, i), row(rest, i)...);
}
// [end loop]

/// @brief Sums in long double, parameters and arithmetic in double; takes f32 and f64 tensors.
class PlainBackend {
 public:
  // [begin memory]
  using memory_space = syncbn::HostSpace;
  using queue_type = syncbn::HostQueue;
  using parameter_type = double;
  template <class T>
  using buffer = std::vector<T>;

  static constexpr bool accepts(syncbn::ScalarKind kind) noexcept {
    return kind == syncbn::ScalarKind::f32 || kind == syncbn::ScalarKind::f64;
  }
  queue_type& queue() noexcept { return queue_; }
  template <class T>
  void download(const T* from, syncbn::Index n, T* to) const {
    std::copy_n(from, n, to);
  }
  template <class T>
  void upload(const T* from, syncbn::Index n, T* to) const {
    std::copy_n(from, n, to);
  }
  template <class F>
  void for_each_channel(syncbn::Index channels, const F& f) const {
    for (syncbn::Index c = 0; c < channels; ++c) f(c);
  }
  // [end memory]

  // [begin sums]
  template <class T>
  void accumulate(syncbn::TensorView<const T> x, syncbn::MomentsPointers moments) const {
    const double before = *moments.count;
    const auto n = static_cast<double>(syncbn::elements_per_channel(x));
    if (n == 0) return;
    for (syncbn::Index c = 0; c < x.extent(1); ++c) {
      const auto channel = x.slice(1, c, c + 1);
      long double sum = 0;
      long double squares = 0;
      for_each_element([&](T value) { sum += value; }, channel);
      const long double mean = sum / n;
      for_each_element([&](T value) { squares += (value - mean) * (value - mean); }, channel);
      const syncbn::ChannelMoments both = syncbn::merge({before, moments.mean[c], moments.m2[c]},
                                                        {n, static_cast<double>(mean), static_cast<double>(squares)});
      moments.mean[c] = both.mean;
      moments.m2[c] = both.m2;
    }
    *moments.count = before + n;
  }

  template <class D, class T>
  void accumulate(syncbn::TensorView<const D> dy, syncbn::TensorView<const T> x, const double* mean,
                  syncbn::GradientSumsPointers sums) const {
    for (syncbn::Index c = 0; c < x.extent(1); ++c) {
      long double sum = 0;
      long double centred = 0;
      for_each_element(
          [&](D gradient, T value) {
            sum += gradient;
            centred += gradient * (static_cast<long double>(value) - mean[c]);
          },
          dy.slice(1, c, c + 1), x.slice(1, c, c + 1));
      sums.dy[c] += static_cast<double>(sum);
      sums.dy_centred[c] += static_cast<double>(centred);
    }
  }
  // [end sums]

  // [begin maps]
  template <class T, class U, class CoefficientsOf>
  void normalize(syncbn::TensorView<const T> x, const CoefficientsOf& coefficients_of, syncbn::TensorView<U> y) const {
    for (syncbn::Index c = 0; c < x.extent(1); ++c) {
      const auto map = coefficients_of(c);  // a function of double
      for_each_element([&](U& to, T from) { to = static_cast<U>(map(from)); }, y.slice(1, c, c + 1),
                       x.slice(1, c, c + 1));
    }
  }

  template <class D, class T, class U, class CoefficientsOf>
  void propagate(syncbn::TensorView<const D> dy, syncbn::TensorView<const T> x, const CoefficientsOf& coefficients_of,
                 syncbn::TensorView<U> dx) const {
    for (syncbn::Index c = 0; c < x.extent(1); ++c) {
      const auto map = coefficients_of(c);
      for_each_element([&](U& to, D gradient, T value) { to = static_cast<U>(map(gradient, value)); },
                       dx.slice(1, c, c + 1), dy.slice(1, c, c + 1), x.slice(1, c, c + 1));
    }
  }
  // [end maps]

 private:
  queue_type queue_;
};

static_assert(syncbn::check_backend<PlainBackend>());

}  // namespace example
