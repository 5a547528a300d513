#include <syncbn/scalar_kind.hpp>

#include <concepts>
#include <cstdint>
#include <string_view>
#include <vector>

#include "support/catch.hpp"

// Types of somebody else's: the bits of the two 16-bit formats.
namespace acme {

struct half {
  std::uint16_t bits;
};
class brain {
 public:
  brain() = default;
  explicit brain(std::uint16_t bits) : bits_(bits) {}
  bool is_negative() const { return (bits_ & 0x8000U) != 0; }

 private:
  std::uint16_t bits_ = 0;
};
enum class wrapped : std::uint16_t {};
struct Unknown {};

}  // namespace acme

template <>
struct syncbn::scalar_kind<acme::half> {
  static constexpr ScalarKind value = ScalarKind::f16;
};
template <>
struct syncbn::scalar_kind<acme::brain> {
  static constexpr ScalarKind value = ScalarKind::bf16;
};
template <>
struct syncbn::scalar_kind<acme::wrapped> {
  static constexpr ScalarKind value = ScalarKind::f16;
};

namespace {

using syncbn::Index;
using syncbn::ScalarKind;
using syncbn::TensorView;

template <class T>
concept has_kind = requires { syncbn::scalar_kind<T>::value; };

template <class T>
using storage_view_t = decltype(syncbn::detail::storage_view(TensorView<T>()));

}  // namespace

TEST_CASE("formats have the names of PyTorch's messages", "[scalar_kind]") {
  CHECK(name(ScalarKind::f16) == "Half");
  CHECK(name(ScalarKind::bf16) == "BFloat16");
  CHECK(name(ScalarKind::f32) == "Float");
  CHECK(name(ScalarKind::f64) == "Double");
  static_assert(name(ScalarKind::f32) == std::string_view("Float"));
}

TEST_CASE("the kinds of the library's and of foreign types", "[scalar_kind]") {
  STATIC_REQUIRE(syncbn::scalar_kind<float>::value == ScalarKind::f32);
  STATIC_REQUIRE(syncbn::scalar_kind<double>::value == ScalarKind::f64);
  STATIC_REQUIRE(syncbn::scalar_kind<syncbn::Float16>::value == ScalarKind::f16);
  STATIC_REQUIRE(syncbn::scalar_kind<syncbn::BFloat16>::value == ScalarKind::bf16);
  STATIC_REQUIRE(syncbn::scalar_kind<acme::half>::value == ScalarKind::f16);
  STATIC_REQUIRE(syncbn::scalar_kind<acme::brain>::value == ScalarKind::bf16);
#if defined(__STDCPP_FLOAT16_T__)
  STATIC_REQUIRE(syncbn::scalar_kind<decltype(0.0f16)>::value == ScalarKind::f16);
#endif
#if defined(__STDCPP_BFLOAT16_T__)
  STATIC_REQUIRE(syncbn::scalar_kind<decltype(0.0bf16)>::value == ScalarKind::bf16);
#endif
  STATIC_REQUIRE_FALSE(has_kind<int>);
  STATIC_REQUIRE_FALSE(has_kind<long double>);
  STATIC_REQUIRE_FALSE(has_kind<acme::Unknown>);
  STATIC_REQUIRE_FALSE(has_kind<std::uint16_t>);  // sixteen bits alone say nothing
}

TEST_CASE("kernels see one type for each format", "[scalar_kind]") {
  STATIC_REQUIRE(std::same_as<storage_view_t<acme::half>, TensorView<syncbn::Float16>>);
  STATIC_REQUIRE(std::same_as<storage_view_t<acme::wrapped>, TensorView<syncbn::Float16>>);
  STATIC_REQUIRE(std::same_as<storage_view_t<const acme::half>, TensorView<const syncbn::Float16>>);
  STATIC_REQUIRE(std::same_as<storage_view_t<acme::brain>, TensorView<syncbn::BFloat16>>);
  STATIC_REQUIRE(std::same_as<storage_view_t<float>, TensorView<float>>);
  STATIC_REQUIRE(std::same_as<storage_view_t<const double>, TensorView<const double>>);
  STATIC_REQUIRE(sizeof(syncbn::Float16) == 2);
  STATIC_REQUIRE(sizeof(syncbn::BFloat16) == 2);
}

TEST_CASE("a view of foreign elements as storage is of the same places", "[scalar_kind]") {
  std::vector<acme::brain> data(24);
  const TensorView<acme::brain> x(data.data() + 3, {2, 3}, {-1, 5});
  const auto storage = syncbn::detail::storage_view(x);
  CHECK(static_cast<const void*>(storage.data()) == static_cast<const void*>(x.data()));
  CHECK(storage.rank() == 2);
  CHECK(storage.extent(0) == 2);
  CHECK(storage.extent(1) == 3);
  CHECK(storage.stride(0) == -1);
  CHECK(storage.stride(1) == 5);

  const auto nothing = syncbn::detail::storage_view(TensorView<acme::half>());
  CHECK(nothing.data() == nullptr);
  CHECK(nothing.rank() == 0);
}
