#pragma once

#include <type_traits>

#include <syncbn/scalar_kind.hpp>
#include <syncbn/tensor_view.hpp>

/// @file
/// What a tensor must offer. Each requirement is a named leaf concept, so that a compiler names what is missing; check.hpp says the same in plain
/// English. A concept checks syntax: whether a type does the right thing is for the conformance suite (docs/extending.md).

namespace syncbn::inline v0 {

/// @brief The TensorView that `view(t)` gives for a `T&` or `const T&`.
template <class T>
using view_t = std::invoke_result_t<const detail::ViewFunction&, T&>;

/// @brief `tensor_traits<T>` makes a TensorView of it.
template <class T>
concept tensor = requires(T& t) { tensor_traits<std::remove_cvref_t<T>>::view(t); };

/// @brief The elements of the tensor can be written.
template <class T>
concept writable_tensor = tensor<T> && !std::is_const_v<typename view_t<T>::element_type>;

/// @brief It has a `scalar_kind`, is as large as that format and trivially copyable. Types that are not the library's own
/// can have 16 bits only: others cannot be read through a pointer to float or double.
template <class T>
concept known_scalar = requires { scalar_kind<std::remove_const_t<T>>::value; } &&
                       detail::holds_bits_of<std::remove_const_t<T>, scalar_kind<std::remove_const_t<T>>::value>;

}  // namespace syncbn::inline v0
