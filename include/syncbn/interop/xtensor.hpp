#pragma once

#include <array>
#include <cstddef>
#include <type_traits>

#include <xtensor/xexpression.hpp>

#include <syncbn/tensor_view.hpp>

/// @file
/// xtensor's arrays, tensors, adaptors, and those views of them that have strides. A const container is read-only.

namespace syncbn::inline v0 {

namespace detail {

// Whatever lies in memory with strides; expressions that are computed when read do not.
template <class T>
concept strided_xexpression = xt::is_xexpression<T>::value && requires(const T& t) {
  t.data();
  t.data_offset();
  t.shape();
  t.strides();
};

template <class Element, class T>
TensorView<Element> view_of_xexpression(Element* data, const T& t) {
  if (t.dimension() > static_cast<std::size_t>(max_rank)) {
    throw ShapeError("a tensor of " + std::to_string(t.dimension()) + " dimensions; at most 8 are possible");
  }
  std::array<Index, max_rank> extents{};
  std::array<Index, max_rank> strides{};
  for (std::size_t d = 0; d < t.dimension(); ++d) {
    extents[d] = static_cast<Index>(t.shape()[d]);
    strides[d] = static_cast<Index>(t.strides()[d]);
  }
  return TensorView<Element>(data + t.data_offset(), {extents.data(), t.dimension()}, {strides.data(), t.dimension()});
}

}  // namespace detail

/// @brief What has data and strides in xtensor. @tparam T  a container or view.
template <class T>
  requires detail::strided_xexpression<T>
struct tensor_traits<T> {
  /// @brief A view that may write if @p t may. @param t  a container or view. @return the same elements.
  /// @throws ShapeError if it has more than 8 dimensions.
  static auto view(T& t) { return detail::view_of_xexpression(t.data(), t); }
  /// @brief A read-only view of a container. @param t  a container or view. @return the same elements.
  static auto view(const T& t) { return detail::view_of_xexpression(t.data(), t); }
};

}  // namespace syncbn::inline v0
