#pragma once

#include <cstddef>
#include <limits>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include <syncbn/scalar_kind.hpp>
#include <syncbn/tensor_view.hpp>

#include "support/oracle.hpp"
#include "support/sixteen_bits.hpp"

/// @file
/// Tensors that tests own: any element format, any of three layouts, numbers in and out in logical order.

namespace syncbn_test {

using oracle::Number;
using oracle::Numbers;
using syncbn::Index;

// ---- Element formats, converted without the library's help -----------------------------------------------------------

/// @brief The definition of a 16-bit format.
template <class T>
constexpr const SixteenBits& definition() {
  static_assert(std::is_same_v<T, syncbn::Float16> || std::is_same_v<T, syncbn::BFloat16>);
  if constexpr (std::is_same_v<T, syncbn::Float16>) {
    return binary16;
  } else {
    return bfloat16;
  }
}

/// @brief A number in format T, rounded once, to nearest even.
template <class T>
T element(Number value) {
  if constexpr (std::is_floating_point_v<T>) {
    return static_cast<T>(value);
  } else {
    return {definition<T>().nearest(value)};
  }
}

/// @brief The value of an element, exactly.
template <class T>
Number value_of(T e) {
  if constexpr (std::is_floating_point_v<T>) {
    return static_cast<Number>(e);
  } else {
    return definition<T>().value(e.bits);
  }
}

/// @brief The smallest positive element.
template <class T>
Number smallest_of() {
  if constexpr (std::is_floating_point_v<T>) {
    return std::numeric_limits<T>::denorm_min();
  } else {
    return definition<T>().smallest();
  }
}

/// @brief Twice the unit roundoff of format T.
template <class T>
inline constexpr Number epsilon_of = std::is_same_v<T, syncbn::Float16>    ? Number{1} / 1024
                                     : std::is_same_v<T, syncbn::BFloat16> ? Number{1} / 128
                                     : std::is_same_v<T, float> ? Number{std::numeric_limits<float>::epsilon()}
                                                                : Number{std::numeric_limits<double>::epsilon()};

// ---- Tensors ---------------------------------------------------------------------------------------------------------

/// @brief The order of the axes in memory, slowest first.
enum class Layout { contiguous, channels_last, permuted };  // (N, C, S...), (N, S..., C), (C, S..., N)

inline constexpr Layout all_layouts[] = {Layout::contiguous, Layout::channels_last, Layout::permuted};

inline const char* name(Layout layout) {
  return layout == Layout::contiguous ? "contiguous" : layout == Layout::channels_last ? "channels_last" : "permuted";
}

/// @brief Strides of a tensor without gaps. @param extents  of any rank; rank 0 and 1 have one layout only.
inline std::vector<Index> strides_of(const std::vector<Index>& extents, Layout layout) {
  const std::size_t rank = extents.size();
  std::vector<std::size_t> order;  // slowest first
  if (rank < 2 || layout == Layout::contiguous) {
    for (std::size_t d = 0; d < rank; ++d) order.push_back(d);
  } else if (layout == Layout::channels_last) {
    order.push_back(0);
    for (std::size_t d = 2; d < rank; ++d) order.push_back(d);
    order.push_back(1);
  } else {
    for (std::size_t d = 1; d < rank; ++d) order.push_back(d);
    order.push_back(0);
  }
  std::vector<Index> strides(rank);
  Index stride = 1;
  for (std::size_t i = rank; i-- > 0;) {
    strides[order[i]] = stride;
    stride *= extents[order[i]];
  }
  return strides;
}

/// @brief A tensor of its own memory; what was never written reads as NaN.
/// @tparam T  float, double, Float16 or BFloat16.
template <class T>
class Activations {
 public:
  Activations() = default;
  explicit Activations(std::vector<Index> extents, Layout layout = Layout::contiguous)
      : extents_(std::move(extents)), strides_(strides_of(extents_, layout)) {
    std::size_t size = 1;
    for (const Index e : extents_) size *= static_cast<std::size_t>(e);
    elements_.assign(size, element<T>(std::numeric_limits<Number>::quiet_NaN()));
  }
  /// @brief With values in logical order (row by row over N, C, S...).
  template <class Value>
  Activations(std::vector<Index> extents, const std::vector<Value>& values, Layout layout = Layout::contiguous)
      : Activations(std::move(extents), layout) {
    if (values.size() != elements_.size()) throw std::invalid_argument("Activations: wrong number of values");
    std::size_t i = 0;
    for_each_offset([&](std::size_t offset) { elements_[offset] = element<T>(static_cast<Number>(values[i++])); });
  }

  const std::vector<Index>& extents() const { return extents_; }
  syncbn::TensorView<T> view() { return {elements_.data(), extents_, strides_}; }
  syncbn::TensorView<const T> view() const { return {elements_.data(), extents_, strides_}; }

  /// @brief All values, exactly, in logical order.
  Numbers numbers() const {
    Numbers result;
    for_each_offset([&](std::size_t offset) { result.push_back(value_of(elements_[offset])); });
    return result;
  }

 private:
  template <class F>
  void for_each_offset(const F& f) const {
    std::vector<Index> index(extents_.size());
    for (std::size_t count = 0; count < elements_.size(); ++count) {
      Index offset = 0;
      for (std::size_t d = 0; d < index.size(); ++d) offset += index[d] * strides_[d];
      f(static_cast<std::size_t>(offset));
      for (std::size_t d = index.size(); d-- > 0 && ++index[d] == extents_[d];) index[d] = 0;
    }
  }

  std::vector<Index> extents_, strides_;
  std::vector<T> elements_;
};

/// @brief Extents as the oracle wants them. @param extents  of rank 2 or more.
inline oracle::Shape shape_of(const std::vector<Index>& extents) {
  oracle::Shape shape{static_cast<std::size_t>(extents[0]), static_cast<std::size_t>(extents[1]), 1};
  for (std::size_t d = 2; d < extents.size(); ++d) shape.positions *= static_cast<std::size_t>(extents[d]);
  return shape;
}

/// @brief The values of a per-channel tensor; empty where it is absent.
template <class P>
Numbers numbers_of(const syncbn::TensorView<P>& channels) {
  Numbers result;
  if (channels.data() == nullptr) return result;
  for (Index c = 0; c < channels.extent(0); ++c) result.push_back(static_cast<Number>(channels[c]));
  return result;
}

/// @brief Sets a per-channel tensor. @param values  as many as it has channels.
template <class P, class Value>
void assign(const syncbn::TensorView<P>& channels, const std::vector<Value>& values) {
  if (static_cast<Index>(values.size()) != channels.extent(0)) throw std::invalid_argument("assign: wrong size");
  for (Index c = 0; c < channels.extent(0); ++c) channels[c] = static_cast<P>(values[static_cast<std::size_t>(c)]);
}

}  // namespace syncbn_test

/// @brief Tests pass Activations as users pass their own tensors.
template <class T>
struct syncbn::tensor_traits<syncbn_test::Activations<T>> {
  static TensorView<T> view(syncbn_test::Activations<T>& t) { return t.view(); }
  static TensorView<const T> view(const syncbn_test::Activations<T>& t) { return t.view(); }
};
