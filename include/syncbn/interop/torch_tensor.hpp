#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <type_traits>
#include <utility>

// clang-format off: clang reads LibTorch 1.13 only if this comes first
#include <ATen/core/ivalue.h>
#include <ATen/ATen.h>
// clang-format on

#include <syncbn/backends/cuda_space.hpp>
#include <syncbn/scalar_kind.hpp>

/// @file
/// LibTorch's tensors: torch::view() and torch::visit() make TensorViews of them, whatever their strides are
/// (channels_last too). A tensor knows its format and device at run time, and a view at compile time; the two are compared.

namespace syncbn::inline v0 {

/// @cond
template <>
struct scalar_kind<at::Half> {
  static constexpr ScalarKind value = ScalarKind::f16;
};
template <>
struct scalar_kind<at::BFloat16> {
  static constexpr ScalarKind value = ScalarKind::bf16;
};
/// @endcond

namespace detail::torch {
template <class Space>
inline constexpr at::DeviceType type_of_device = std::is_same_v<Space, HostSpace> ? at::kCPU : at::kCUDA;
}

/// @brief What LibTorch's users see.
namespace torch {

/// @brief The elements of a tensor. @tparam T  element type, const for a view that reads: float, double, at::Half,
/// at::BFloat16. @tparam Space  HostSpace or CudaSpace.
/// @param t  outlives the view. @return the same elements. @throws Error if format, layout or device are others.
/// @throws ShapeError if it has more than 8 dimensions.
template <class T, class Space = HostSpace>
TensorView<T, Space> view(const at::Tensor& t) {
  constexpr at::ScalarType type = c10::CppTypeToScalarType<std::remove_const_t<T>>::value;
  constexpr at::DeviceType device = detail::torch::type_of_device<Space>;
  static_assert(std::is_same_v<Space, HostSpace> || std::is_same_v<Space, CudaSpace>);
  if (!t.defined()) throw Error("a tensor that is not defined");
  if (t.layout() != at::kStrided) throw Error("a tensor that has no strides");
  if (t.scalar_type() != type) {
    throw Error(std::string("expected scalar type ") + at::toString(type) + " but found " +
                at::toString(t.scalar_type()));
  }
  if (t.device().type() != device) {
    throw Error("a tensor on " + t.device().str() + " where one on " + at::DeviceTypeName(device, true) +
                " is expected");
  }
  if (t.is_neg()) throw Error("a tensor whose elements are the negative of its memory; resolve_neg() makes another");
  const auto rank = static_cast<std::size_t>(t.dim());
  if (rank > static_cast<std::size_t>(max_rank)) {
    throw ShapeError("a tensor of " + std::to_string(rank) + " dimensions; at most 8 are possible");
  }
  std::array<Index, static_cast<std::size_t>(max_rank)> extents{};
  std::array<Index, static_cast<std::size_t>(max_rank)> strides{};
  for (std::size_t d = 0; d < rank; ++d) {
    extents[d] = t.sizes()[d];
    strides[d] = t.strides()[d];
  }
  if (t.numel() > 0 && (t._is_zerotensor() || !t.has_storage() || t.storage().nbytes() == 0)) {
    throw Error("a tensor without memory");
  }
  return {static_cast<T*>(t.data_ptr()), {extents.data(), rank}, {strides.data(), rank}};
}

/// @brief Calls a function with the elements of a tensor, whatever their format is. @tparam Space  HostSpace or CudaSpace.
/// @param t  outlives the call. @param f  takes a TensorView of float, double, at::Half or at::BFloat16.
/// @return what @p f does. @throws as view(). @throws Error if it is none of these formats.
template <class Space = HostSpace, class F>
decltype(auto) visit(const at::Tensor& t, F&& f) {
  switch (t.scalar_type()) {
    case at::kFloat:
      return std::forward<F>(f)(view<float, Space>(t));
    case at::kDouble:
      return std::forward<F>(f)(view<double, Space>(t));
    case at::kHalf:
      return std::forward<F>(f)(view<at::Half, Space>(t));
    case at::kBFloat16:
      return std::forward<F>(f)(view<at::BFloat16, Space>(t));
    default:
      throw Error(std::string("a tensor of ") + at::toString(t.scalar_type()) +
                  ", which is none of Float, Double, Half and BFloat16");
  }
}

}  // namespace torch
}  // namespace syncbn::inline v0
