#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <utility>

#include <syncbn/fwd.hpp>
#include <syncbn/tensor_view.hpp>

/// @file
/// What is checked before anything is computed or sent. Texts begin with PyTorch's words where it has the condition.

namespace syncbn::inline v0 {

/// @brief Extents as PyTorch prints a size in messages. @param extents  any number. @return for example "[1, 3]".
inline std::string shape_text(std::span<const Index> extents) {
  std::string text = "[";
  for (const Index e : extents) text += (text.size() > 1 ? ", " : "") + std::to_string(e);
  return text + "]";
}

/// @brief Values per channel. @param x  a tensor of rank 2 or more. @return product of all extents but the second.
template <class T, class Space>
Index elements_per_channel(const TensorView<T, Space>& x) noexcept {
  Index product = x.extent(0);
  for (int d = 2; d < x.rank(); ++d) product *= x.extent(d);
  return product;
}

/// @brief Whether an input has the number of dimensions a layer takes. @tparam Dims  1, 2, 3 or any_dims.
/// @param rank  of the input. @throws ShapeError if not.
template <std::size_t Dims>
void check_rank(int rank) {
  const auto fail = [rank](const std::string& expected) {
    throw ShapeError("expected " + expected + " input (got " + std::to_string(rank) + "D input)");
  };
  if constexpr (Dims == any_dims) {
    if (rank < 2) fail("at least 2D");
  } else if constexpr (Dims == 1) {
    if (rank != 2 && rank != 3) fail("2D or 3D");
  } else {
    constexpr int expected = static_cast<int>(Dims) + 2;
    if (rank != expected) fail(std::to_string(expected) + "D");
  }
}

/// @brief Whether there is anything to synchronize. @param channels  of the input. @throws ShapeError if 0.
inline void check_some_channels(Index channels) {
  if (channels == 0) throw ShapeError("SyncBatchNorm number of input channels should be non-zero");
}

/// @brief Whether a per-channel tensor fits the input. @param name  of the tensor. @param have  its channels.
/// @param input  channels of the input. @throws Error if they differ.
inline void check_channels(const char* name, Index have, Index input) {
  if (have == input) return;
  throw Error(std::string(name) + " should contain " + std::to_string(input) + " elements not " + std::to_string(have) +
              " (x has " + std::to_string(input) + " channels)");
}

/// @brief Whether two tensors have the same extents. @param name  of the first. @param extents  its extents.
/// @param other_name  of the second. @param other  its extents. @throws ShapeError if not.
inline void check_same_shape(const char* name, std::span<const Index> extents, const char* other_name,
                             std::span<const Index> other) {
  if (std::equal(extents.begin(), extents.end(), other.begin(), other.end())) return;
  throw ShapeError(std::string(name) + " has shape " + shape_text(extents) + ", but " + other_name + " has " +
                   shape_text(other));
}

/// @brief Whether batch statistics can be taken of a tensor. @param x  activations, rank >= 2.
/// @throws ShapeError if it has exactly 1 value per channel.
template <class T, class Space>
void check_more_than_one_value(const TensorView<T, Space>& x) {
  if (elements_per_channel(x) != 1) return;
  throw ShapeError("Expected more than 1 value per channel when training, got input size " + shape_text(x.extents()));
}

/// @brief The same for the tensors of all ranks together. @param count  values per channel. @param ranks  how many.
/// @throws ShapeError if there is exactly 1 value per channel.
inline void check_more_than_one_value(double count, int ranks) {
  if (count != 1) return;
  throw ShapeError("Expected more than 1 value per channel when training, got input size 1 (over all " +
                   std::to_string(ranks) + " ranks)");
}

namespace detail {

// The extents greater than 1 with the sizes of their strides, the largest stride first.
struct Span {
  Index extent, stride;
};
struct Spans {
  std::array<Span, static_cast<std::size_t>(max_rank)> items{};
  std::size_t size = 0;
};
template <class T, class Space>
Spans spans_of(const TensorView<T, Space>& v) noexcept {
  Spans spans;
  for (int d = 0; d < v.rank(); ++d) {
    if (v.extent(d) > 1) spans.items[spans.size++] = {v.extent(d), std::abs(v.stride(d))};
  }
  std::sort(spans.items.begin(), spans.items.begin() + static_cast<std::ptrdiff_t>(spans.size),
            [](const Span& a, const Span& b) { return a.stride > b.stride; });
  return spans;
}

// How far the dimensions from `first` on extend together.
inline Index reach(const Spans& spans, std::size_t first) noexcept {
  Index sum = 0;
  for (std::size_t i = first; i < spans.size; ++i) sum += (spans.items[i].extent - 1) * spans.items[i].stride;
  return sum;
}

// Whether sum(k_i * stride_i) = distance for some |k_i| < extent_i, over the dimensions from `first` on: two such views,
// `distance` elements apart, share an element. Few branches survive, since the smaller strides must cover the rest; but
// strides can be made up that nest nowhere, and then the search ends after `steps` of them, as if it had found one.
inline constexpr Index most_steps = 100'000;
inline bool meets(const Spans& spans, std::size_t first, Index distance, Index& steps) noexcept {
  if (--steps < 0) return true;
  if (first == spans.size) return distance == 0;
  const auto [extent, stride] = spans.items[first];
  if (stride == 0) return distance == 0;
  const Index rest = reach(spans, first + 1);
  const Index nearest = distance / stride;
  const Index slack = rest / stride + 1;
  for (Index k = std::max(nearest - slack, 1 - extent); k <= std::min(nearest + slack, extent - 1); ++k) {
    const Index left = distance - k * stride;
    if (std::abs(left) <= rest && meets(spans, first + 1, left, steps)) return true;
  }
  return false;
}

}  // namespace detail

/// @brief Whether each element of an output has its own place in memory.
/// @param name  of the tensor. @param y  the output. @throws ShapeError if two elements share one, and if strides are so
/// intricate (many dimensions of which none contains the next) that a short search cannot exclude it.
template <class T, class Space>
void check_no_self_overlap(const char* name, const TensorView<T, Space>& y) {
  if (y.size() <= 1) return;
  const detail::Spans spans = detail::spans_of(y);
  // Two elements meet iff a difference of indices other than 0 leads nowhere; k is the first of its parts that is not 0.
  // With nested strides (each larger than all smaller ones together reach) there is no such k.
  Index steps = detail::most_steps;
  bool overlaps = false;
  for (std::size_t i = 0; i < spans.size && !overlaps; ++i) {
    const auto [extent, stride] = spans.items[i];
    const Index rest = detail::reach(spans, i + 1);
    for (Index k = 1; k < extent && k * stride <= rest && !overlaps; ++k) {
      overlaps = detail::meets(spans, i + 1, k * stride, steps);
    }
    overlaps = overlaps || stride == 0;
  }
  if (overlaps) {
    throw ShapeError(std::string(name) + " overlaps itself: elements of shape " + shape_text(y.extents()) +
                     " with strides " + shape_text(y.strides()) + " share memory");
  }
}

/// @brief Whether an output may be written while an input of the same extents is read: they are the same elements, or
/// share none. @param name  of the output. @param y  the output. @param other_name  of the input. @param x  the input.
/// @throws ShapeError if they overlap in part, or if their ranges do and their strides differ.
template <class T, class U, class Space>
void check_overlap(const char* name, const TensorView<T, Space>& y, const char* other_name,
                   const TensorView<U, Space>& x) {
  if (y.size() == 0) return;
  const auto bounds = [](const auto& v) {
    Index low = 0;
    Index high = 0;
    for (int d = 0; d < v.rank(); ++d) (v.stride(d) < 0 ? low : high) += (v.extent(d) - 1) * v.stride(d);
    return std::pair{reinterpret_cast<std::uintptr_t>(v.data() + low),
                     reinterpret_cast<std::uintptr_t>(v.data() + high + 1)};
  };
  const auto [y_first, y_last] = bounds(y);
  const auto [x_first, x_last] = bounds(x);
  if (y_last <= x_first || x_last <= y_first) return;
  bool same_strides = true;
  for (int d = 0; d < y.rank(); ++d) same_strides = same_strides && (y.extent(d) <= 1 || y.stride(d) == x.stride(d));
  const auto y_at = reinterpret_cast<std::intptr_t>(y.data());
  const auto x_at = reinterpret_cast<std::intptr_t>(x.data());
  if (same_strides && y_at == x_at) return;
  const auto bytes = static_cast<std::intptr_t>(sizeof(T));
  Index steps = detail::most_steps;
  const Index elements = (y_at - x_at) / bytes;
  const bool apart =
      same_strides && (y_at - x_at) % bytes == 0 && !detail::meets(detail::spans_of(y), 0, elements, steps);
  if (apart) return;
  throw ShapeError(std::string(name) + " overlaps " + other_name + " without being the same elements");
}

namespace detail {

template <class Y, class X>
void check_output(const Y& y, const X& x) {
  check_same_shape("y", y.extents(), "x", x.extents());
  check_no_self_overlap("y", y);
  check_overlap("y", y, "x", x);
}

// The tensors of a backward pass against the extents that its forward pass saw.
template <class D, class X>
void check_backward(const D& dy, const X& x, std::span<const Index> saved) {
  check_same_shape("x", x.extents(), "the x of the forward pass", saved);
  check_same_shape("dy", dy.extents(), "x", x.extents());
}

template <class DX, class D, class X>
void check_input_gradient(const DX& dx, const D& dy, const X& x) {
  check_same_shape("dx", dx.extents(), "x", x.extents());
  check_no_self_overlap("dx", dx);
  check_overlap("dx", dx, "dy", dy);
  check_overlap("dx", dx, "x", x);
}

}  // namespace detail
}  // namespace syncbn::inline v0
