/// @file
/// The element formats that a backend accepts, for Catch2's TEMPLATE_LIST_TEST_CASE.
#pragma once

#include <tuple>
#include <type_traits>
#include <utility>

#include <syncbn/scalar_kind.hpp>

namespace syncbn_test {

namespace detail {
template <class Backend, class T>
using if_accepted = std::conditional_t<Backend::accepts(syncbn::scalar_kind<T>::value), std::tuple<T>, std::tuple<>>;

template <class Backend>
using accepted = decltype(std::tuple_cat(
    std::declval<if_accepted<Backend, syncbn::Float16>>(), std::declval<if_accepted<Backend, syncbn::BFloat16>>(),
    std::declval<if_accepted<Backend, float>>(), std::declval<if_accepted<Backend, double>>()));
}  // namespace detail

/// @brief A std::tuple of element types.
template <class Backend>
using formats_of = detail::accepted<Backend>;

}  // namespace syncbn_test
