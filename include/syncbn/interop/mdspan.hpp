#pragma once

#include <array>
#include <concepts>
#include <cstddef>

#include <syncbn/tensor_view.hpp>

/// @file
/// Every mdspan as a tensor: std::mdspan, cuda::std::mdspan, Kokkos' own. They are known by their members, so that this
/// header includes none of them. Constness is that of the elements, as with any pointer.

namespace syncbn::inline v0 {

namespace detail {

template <class Accessor, class Element>
struct is_default_accessor : std::false_type {};
template <template <class> class Accessor, class Element>
  requires std::same_as<typename Accessor<Element>::offset_policy, Accessor<Element>>
struct is_default_accessor<Accessor<Element>, Element> : std::true_type {};

}  // namespace detail

/// @brief Where the elements of an mdspan lie. Known are default accessors, which mean the host's memory; specialise this for
/// an accessor of yours whose element i is at pointer + i, as std::aligned_accessor's are.
/// @tparam Accessor  its accessor policy.
template <class Accessor>
struct mdspan_space {};
/// @brief Those of std, cuda::std and others. @tparam Accessor  a template of the element type alone, its own offset policy.
template <class Accessor>
  requires detail::is_default_accessor<Accessor, typename Accessor::element_type>::value
struct mdspan_space<Accessor> {
  using type = HostSpace;  ///< a memory space
};

namespace detail {

// An mdspan has strides if its layout has, and its elements are where its pointer says if the accessor does no more than
// dereference it: what converts, scales or counts accesses does not yield a reference.
template <class T>
concept strided_mdspan = requires(const T& t, typename T::rank_type d) {
  typename T::layout_type;
  typename T::accessor_type;
  typename mdspan_space<typename T::accessor_type>::type;
  requires std::same_as<typename T::reference, typename T::element_type&>;
  { t.data_handle() } -> std::convertible_to<typename T::element_type*>;
  { t.extent(d) } -> std::convertible_to<Index>;
  { t.mapping().stride(d) } -> std::convertible_to<Index>;
  { t.is_strided() } -> std::convertible_to<bool>;
};

}  // namespace detail

/// @brief Any mdspan with strides. @tparam T  the mdspan.
template <class T>
  requires detail::strided_mdspan<T>
struct tensor_traits<T> {
  /// @brief The same elements. @param t  an mdspan. @return a view; it may write unless the elements are const.
  /// @throws ShapeError if the layout has no strides with these extents.
  static auto view(const T& t) {
    static_assert(T::rank() <= static_cast<std::size_t>(max_rank), "a tensor has at most 8 dimensions");
    if (!t.is_strided()) throw ShapeError("an mdspan whose layout has no strides");
    std::array<Index, T::rank()> extents{};
    std::array<Index, T::rank()> strides{};
    for (typename T::rank_type d = 0; d < T::rank(); ++d) {
      extents[d] = static_cast<Index>(t.extent(d));
      strides[d] = static_cast<Index>(t.mapping().stride(d));
    }
    using Space = typename mdspan_space<typename T::accessor_type>::type;
    return TensorView<typename T::element_type, Space>(t.data_handle(), std::span<const Index>(extents),
                                                       std::span<const Index>(strides));
  }
};

}  // namespace syncbn::inline v0
