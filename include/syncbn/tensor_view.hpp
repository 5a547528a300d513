#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <type_traits>

#include <syncbn/errors.hpp>

namespace syncbn::inline v0 {

/// @brief Extents, strides, counts of elements.
using Index = std::int64_t;

/// @brief Memory that the host reads and writes.
struct HostSpace {};

/// @brief The largest number of dimensions of a tensor: batch, channels and six spatial ones.
inline constexpr int max_rank = 8;

/// @brief A tensor that somebody else owns: a pointer to its first element, extents, and strides in elements.
///
/// Copies refer to the same elements, as with std::span; a `TensorView<const T>` cannot write. Strides may be anything:
/// permuted, padded, negative, or 0 (a broadcast input).
/// @tparam T      element type, const for a read-only view.
/// @tparam Space  where the elements lie, a tag such as HostSpace; code for another space does not compile.
template <class T, class Space = HostSpace>
class TensorView {
 public:
  using element_type = T;                     ///< with const
  using value_type = std::remove_const_t<T>;  ///< without const
  using memory_space = Space;                 ///< where the elements lie

  /// @brief A view of nothing: rank 0 and a null pointer.
  constexpr TensorView() noexcept = default;

  /// @brief Elements in row-major order without gaps: (N, C, H, W) means NCHW.
  /// @param data     first element. @param extents  one per dimension.
  /// @throws ShapeError if there are more than max_rank extents or one is negative.
  constexpr TensorView(T* data, std::span<const Index> extents) : data_(data) {
    set_extents(extents);
    Index stride = 1;
    for (int d = rank_ - 1; d >= 0; --d) {
      strides_[at(d)] = stride;
      stride *= extents_[at(d)];
    }
  }

  /// @brief The same with the extents in braces. @param data  first element. @param extents  one per dimension.
  constexpr TensorView(T* data, std::initializer_list<Index> extents)
      : TensorView(data, std::span<const Index>(extents.begin(), extents.size())) {}

  /// @brief Elements anywhere.
  /// @param data     first element. @param extents  one per dimension.
  /// @param strides  distance between neighbours in each dimension, in elements.
  /// @throws ShapeError if the two differ in number, or as above.
  constexpr TensorView(T* data, std::span<const Index> extents, std::span<const Index> strides) : data_(data) {
    if (extents.size() != strides.size()) {
      throw ShapeError("a tensor with " + std::to_string(extents.size()) + " extents and " +
                       std::to_string(strides.size()) + " strides");
    }
    set_extents(extents);
    for (int d = 0; d < rank_; ++d) strides_[at(d)] = strides[at(d)];
  }

  /// @brief The same with both in braces. @param data  first element. @param extents  one per dimension.
  /// @param strides  in elements.
  constexpr TensorView(T* data, std::initializer_list<Index> extents, std::initializer_list<Index> strides)
      : TensorView(data, std::span<const Index>(extents.begin(), extents.size()),
                   std::span<const Index>(strides.begin(), strides.size())) {}

  /// @brief A read-only view of the same elements.
  /// @param other  a view that may write.
  template <class Mutable>
    requires(std::is_const_v<T> && std::same_as<Mutable, std::remove_const_t<T>>)
  constexpr TensorView(const TensorView<Mutable, Space>& other) noexcept : data_(other.data()), rank_(other.rank()) {
    for (int d = 0; d < rank_; ++d) {
      extents_[at(d)] = other.extent(d);
      strides_[at(d)] = other.stride(d);
    }
  }

  /// @brief Extents in logical order (N, C, S...) over memory in which channels lie innermost (NHWC, NDHWC).
  /// @param data     first element. @param extents  batch, channels, spatial extents.
  /// @return         the view. @throws ShapeError as the constructors, or if there are fewer than two extents.
  static constexpr TensorView channels_last(T* data, std::initializer_list<Index> extents) {
    TensorView result(data, extents);
    if (result.rank_ < 2) throw ShapeError("channels_last needs a batch and a channel dimension");
    Index stride = result.extents_[1];
    result.strides_[1] = 1;
    for (int d = result.rank_ - 1; d >= 2; --d) {
      result.strides_[at(d)] = stride;
      stride *= result.extents_[at(d)];
    }
    result.strides_[0] = stride;
    return result;
  }

  /// @brief The first element. @return a pointer, null for an empty view.
  constexpr T* data() const noexcept { return data_; }
  /// @brief Number of dimensions. @return 0 to max_rank.
  constexpr int rank() const noexcept { return rank_; }
  /// @brief Size of dimension @p d. @param d  0 to rank() - 1. @return the extent.
  constexpr Index extent(int d) const noexcept { return extents_[at(d)]; }
  /// @brief Distance of neighbours in dimension @p d, in elements. @param d  0 to rank() - 1. @return the stride.
  constexpr Index stride(int d) const noexcept { return strides_[at(d)]; }
  /// @brief All extents. @return rank() of them.
  constexpr std::span<const Index> extents() const noexcept { return {extents_.data(), at(rank_)}; }
  /// @brief All strides. @return rank() of them.
  constexpr std::span<const Index> strides() const noexcept { return {strides_.data(), at(rank_)}; }

  /// @brief Number of elements. @return the product of the extents.
  constexpr Index size() const noexcept {
    Index product = 1;
    for (int d = 0; d < rank_; ++d) product *= extents_[at(d)];
    return product;
  }

  /// @brief One element; as many indices as dimensions. @param indices  within the extents. @return a reference.
  template <std::convertible_to<Index>... Indices>
  constexpr T& operator()(Indices... indices) const noexcept {
    Index offset = 0;
    int d = 0;
    ((offset += static_cast<Index>(indices) * strides_[at(d++)]), ...);
    return data_[offset];
  }

  /// @brief One element of a one-dimensional view. @param i  0 to extent(0) - 1. @return a reference.
  constexpr T& operator[](Index i) const noexcept { return data_[i * strides_[0]]; }

  /// @brief The same tensor with fewer entries in one dimension.
  /// @param d  the dimension. @param first  first index kept. @param last  one past the last. @return a view, no copy.
  /// @throws ShapeError if the range does not lie within the extent.
  constexpr TensorView slice(int d, Index first, Index last) const {
    if (d < 0 || d >= rank_ || first < 0 || last < first || last > extents_[at(d)]) {
      throw ShapeError("slice [" + std::to_string(first) + ", " + std::to_string(last) + ") of dimension " +
                       std::to_string(d) + " does not lie within the tensor");
    }
    TensorView result = *this;
    result.extents_[at(d)] = last - first;
    // An empty slice may begin one past the end; its pointer stays where a pointer may point.
    if (last > first) result.data_ += first * strides_[at(d)];
    return result;
  }

  /// @brief The same elements with dimensions in another order.
  /// @param order  for each new dimension, which old one it is. @return a view, no copy.
  /// @throws ShapeError if @p order is no permutation.
  constexpr TensorView permute(std::initializer_list<int> order) const {
    TensorView result = *this;
    unsigned seen = 0;
    int d = 0;
    for (const int old : order) {
      if (d >= rank_ || old < 0 || old >= rank_ || (seen >> old & 1U) != 0) throw ShapeError("not a permutation");
      seen |= 1U << old;
      result.extents_[at(d)] = extents_[at(old)];
      result.strides_[at(d++)] = strides_[at(old)];
    }
    if (d != rank_) throw ShapeError("not a permutation");
    return result;
  }

 private:
  static constexpr std::size_t at(int d) noexcept { return static_cast<std::size_t>(d); }

  constexpr void set_extents(std::span<const Index> extents) {
    if (extents.size() > static_cast<std::size_t>(max_rank)) {
      throw ShapeError("a tensor of " + std::to_string(extents.size()) + " dimensions; at most " +
                       std::to_string(max_rank) + " are possible");
    }
    rank_ = static_cast<int>(extents.size());
    for (int d = 0; d < rank_; ++d) {
      if (extents[at(d)] < 0) throw ShapeError("extent " + std::to_string(extents[at(d)]) + " is negative");
      extents_[at(d)] = extents[at(d)];
    }
  }

  T* data_ = nullptr;
  int rank_ = 0;
  std::array<Index, at(max_rank)> extents_{};
  std::array<Index, at(max_rank)> strides_{};
};

/// @brief How a container of another library is seen as a TensorView: specialise it for your tensor type.
///
/// A specialisation has `static` functions `view(T&)`, giving a `TensorView<Element, Space>`, and `view(const T&)`,
/// giving a `TensorView<const Element, Space>` (a handle type may have the second alone). See docs/extending.md.
/// @tparam T  the container, without const and reference.
template <class T>
struct tensor_traits;

/// @brief A view is its own view.
template <class T, class Space>
struct tensor_traits<TensorView<T, Space>> {
  /// @brief The view itself. @param t  a view. @return a copy of it.
  static constexpr TensorView<T, Space> view(const TensorView<T, Space>& t) noexcept { return t; }
};

namespace detail {

template <class T, class Space>
constexpr TensorView<const T, Space> read_only(const TensorView<T, Space>& v) noexcept {
  return v;
}

template <class>
inline constexpr bool is_tensor_view = false;
template <class T, class Space>
inline constexpr bool is_tensor_view<TensorView<T, Space>> = true;

struct ViewFunction {
  template <class T>
    requires requires(T& t) { tensor_traits<std::remove_cvref_t<T>>::view(t); }
  constexpr auto operator()(T&& t) const {
    auto result = tensor_traits<std::remove_cvref_t<T>>::view(t);
    static_assert(is_tensor_view<decltype(result)>, "tensor_traits<T>::view(t) must return a syncbn::TensorView");
    return result;
  }
};

}  // namespace detail

/// @brief `view(t)`: any tensor as a TensorView, through tensor_traits; the only reader of that trait.
inline constexpr detail::ViewFunction view{};

}  // namespace syncbn::inline v0
