#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include <syncbn/tensor_view.hpp>

namespace syncbn::inline v0 {

/// @brief The element formats that backends read and write.
enum class ScalarKind : std::uint8_t {
  f16,   ///< IEEE binary16
  bf16,  ///< the upper half of an IEEE binary32
  f32,   ///< IEEE binary32
  f64    ///< IEEE binary64
};

/// @brief Sixteen bits that mean an IEEE binary16; storage only, no arithmetic.
struct Float16 {
  std::uint16_t bits;  ///< the format's bits
};

/// @brief Sixteen bits that mean a bfloat16; storage only, no arithmetic.
struct BFloat16 {
  std::uint16_t bits;  ///< the format's bits
};

/// @brief Which format an element type has: specialise it for your own 16-bit type with a `static constexpr ScalarKind
/// value`. The type must be trivially copyable and hold exactly the bits of that format.
/// @tparam T  the element type, without const.
template <class T>
struct scalar_kind;

/// @cond
template <>
struct scalar_kind<float> {
  static constexpr ScalarKind value = ScalarKind::f32;
};
template <>
struct scalar_kind<double> {
  static constexpr ScalarKind value = ScalarKind::f64;
};
template <>
struct scalar_kind<Float16> {
  static constexpr ScalarKind value = ScalarKind::f16;
};
template <>
struct scalar_kind<BFloat16> {
  static constexpr ScalarKind value = ScalarKind::bf16;
};
#if defined(__STDCPP_FLOAT16_T__)
template <>
struct scalar_kind<decltype(0.0f16)> {
  static constexpr ScalarKind value = ScalarKind::f16;
};
#elif defined(__clang__) && defined(__FLT16_MANT_DIG__) && __clang_major__ >= 15
template <>
struct scalar_kind<_Float16> {
  static constexpr ScalarKind value = ScalarKind::f16;
};
#endif
#if defined(__STDCPP_BFLOAT16_T__)
template <>
struct scalar_kind<decltype(0.0bf16)> {
  static constexpr ScalarKind value = ScalarKind::bf16;
};
#endif
/// @endcond

/// @brief The format's name as PyTorch writes it in messages. @param kind  a format. @return for example "Float".
constexpr std::string_view name(ScalarKind kind) noexcept {
  switch (kind) {
    case ScalarKind::f16:
      return "Half";
    case ScalarKind::bf16:
      return "BFloat16";
    case ScalarKind::f32:
      return "Float";
    case ScalarKind::f64:
      return "Double";
  }
  return "unknown";
}

/// @brief Memory of one element. @param kind  a format. @return bytes.
constexpr std::size_t size_of(ScalarKind kind) noexcept {
  return kind == ScalarKind::f64 ? 8 : kind == ScalarKind::f32 ? 4 : 2;
}

namespace detail {

template <ScalarKind Kind>
struct storage_of;
template <>
struct storage_of<ScalarKind::f16> {
  using type = Float16;
};
template <>
struct storage_of<ScalarKind::bf16> {
  using type = BFloat16;
};
template <>
struct storage_of<ScalarKind::f32> {
  using type = float;
};
template <>
struct storage_of<ScalarKind::f64> {
  using type = double;
};

// The library's own type with the bits of T: kernels are compiled once per format, not once per foreign type.
template <class T>
using storage_t = typename storage_of<scalar_kind<std::remove_const_t<T>>::value>::type;

template <class T, ScalarKind Kind>
inline constexpr bool holds_bits_of =
    std::is_same_v<T, typename storage_of<Kind>::type> ||
    (sizeof(T) == 2 && sizeof(typename storage_of<Kind>::type) == 2 && std::is_trivially_copyable_v<T>);

// 16-bit elements are afterwards read and written by memcpy only, so that no aliasing rule is broken.
template <class T, class Space>
auto storage_view(TensorView<T, Space> v) {
  using Value = std::remove_const_t<T>;
  using Storage = storage_t<T>;
  if constexpr (std::is_same_v<Value, Storage>) {
    return v;
  } else {
    static_assert(holds_bits_of<Value, scalar_kind<Value>::value>,
                  "scalar_kind<T>: T is not of the size of its format; of foreign types, only 16-bit ones are taken");
    using Result = std::conditional_t<std::is_const_v<T>, const Storage, Storage>;
    using Void = std::conditional_t<std::is_const_v<T>, const void, void>;
    return TensorView<Result, Space>(static_cast<Result*>(static_cast<Void*>(v.data())), v.extents(), v.strides());
  }
}

}  // namespace detail
}  // namespace syncbn::inline v0
