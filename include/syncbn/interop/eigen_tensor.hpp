#pragma once

#include <array>
#include <utility>

#include <unsupported/Eigen/CXX11/Tensor>

#include <syncbn/interop/eigen.hpp>

/// @file
/// Eigen's (unsupported) Tensor, TensorFixedSize and TensorMap as tensors, in either storage order.

namespace syncbn::inline v0 {

namespace detail {

template <class Element, class T>
TensorView<Element> view_of_eigen_tensor(Element* data, const T& t) {
  constexpr auto rank = static_cast<std::size_t>(T::NumDimensions);
  static_assert(rank <= static_cast<std::size_t>(max_rank), "a tensor has at most 8 dimensions");
  std::array<Index, rank> extents{};
  std::array<Index, rank> strides{};
  // Constants, because some of these types count dimensions signed and others unsigned.
  [&]<std::size_t... D>(std::index_sequence<D...>) {
    ((extents[D] = static_cast<Index>(t.dimension(D))), ...);
  }(std::make_index_sequence<rank>());
  Index stride = 1;
  for (std::size_t i = 0; i < rank; ++i) {
    const std::size_t d = static_cast<int>(T::Layout) == static_cast<int>(Eigen::RowMajor) ? rank - 1 - i : i;
    strides[d] = stride;
    stride *= extents[d];
  }
  return TensorView<Element>(data, std::span<const Index>(extents), std::span<const Index>(strides));
}

// A const tensor is read-only, and so is a map of const data.
template <class T>
struct EigenTensorTraits {
  static auto view(T& t) { return view_of_eigen_tensor(t.data(), t); }
  static auto view(const T& t) { return view_of_eigen_tensor<const typename T::Scalar>(t.data(), t); }
};

}  // namespace detail

/// @brief Eigen::Tensor. @tparam Scalar  element. @tparam Rank  dimensions. @tparam Options  storage order.
/// @tparam Size  index type.
template <class Scalar, int Rank, int Options, class Size>
struct tensor_traits<Eigen::Tensor<Scalar, Rank, Options, Size>>
    : detail::EigenTensorTraits<Eigen::Tensor<Scalar, Rank, Options, Size>> {};

/// @brief Eigen::TensorFixedSize. @tparam Scalar  element. @tparam Dimensions  extents. @tparam Options  storage order.
/// @tparam Size  index type.
template <class Scalar, class Dimensions, int Options, class Size>
struct tensor_traits<Eigen::TensorFixedSize<Scalar, Dimensions, Options, Size>>
    : detail::EigenTensorTraits<Eigen::TensorFixedSize<Scalar, Dimensions, Options, Size>> {};

/// @brief Eigen::TensorMap of either. @tparam T  the mapped type. @tparam Options  alignment. @tparam Pointer  maker.
template <class T, int Options, template <class> class Pointer>
struct tensor_traits<Eigen::TensorMap<T, Options, Pointer>>
    : detail::EigenTensorTraits<Eigen::TensorMap<T, Options, Pointer>> {};

}  // namespace syncbn::inline v0
