#pragma once

#include <concepts>

#include <Eigen/Core>

#include <syncbn/scalar_kind.hpp>

/// @file
/// Eigen's matrices, arrays, maps, blocks and references as tensors: (rows, columns), a vector as (size). Constness is
/// kept: a const matrix or a map of const data gives a read-only view.

namespace syncbn::inline v0 {

namespace detail {

template <class Derived>
void takes_dense(const Eigen::DenseBase<Derived>&);

// Whatever of Eigen's dense classes lies in memory with strides. Segments of vectors derive from blocks, and so are no
// DenseBase of themselves.
template <class T>
concept eigen_dense = requires(const T& t) {
  takes_dense(t);
  t.data();
  { t.innerStride() } -> std::convertible_to<Index>;
  { t.outerStride() } -> std::convertible_to<Index>;
};

template <class Element, class T>
TensorView<Element> view_of_eigen(Element* data, const T& t) {
  const Index inner = t.innerStride();
  if constexpr (T::IsVectorAtCompileTime) return TensorView<Element>(data, {Index{t.size()}}, {inner});
  const Index outer = t.outerStride();
  return TensorView<Element>(data, {Index{t.rows()}, Index{t.cols()}},
                             {T::IsRowMajor ? outer : inner, T::IsRowMajor ? inner : outer});
}

}  // namespace detail

/// @brief Eigen's dense expressions with direct access.
template <class T>
  requires detail::eigen_dense<T>
struct tensor_traits<T> {
  /// @brief A view that may write if @p t may. @param t  an expression. @return (rows, columns) or (size).
  static auto view(T& t) { return detail::view_of_eigen(t.data(), t); }
  /// @brief A read-only view. @param t  an expression. @return (rows, columns) or (size).
  static auto view(const T& t) { return detail::view_of_eigen<const typename T::Scalar>(t.data(), t); }
};

/// @cond
template <>
struct scalar_kind<Eigen::half> {
  static constexpr ScalarKind value = ScalarKind::f16;
};
template <>
struct scalar_kind<Eigen::bfloat16> {
  static constexpr ScalarKind value = ScalarKind::bf16;
};
/// @endcond

}  // namespace syncbn::inline v0
