#include <syncbn/tensor_view.hpp>

#include <array>
#include <concepts>
#include <cstddef>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/catch.hpp"

namespace {

using syncbn::Index;
using syncbn::ShapeError;
using syncbn::TensorView;

struct DeviceSpace {};

std::vector<Index> list(std::span<const Index> values) { return {values.begin(), values.end()}; }

using Indices = std::vector<Index>;

}  // namespace

TEST_CASE("a view of nothing", "[tensor_view]") {
  const TensorView<float> nothing;
  CHECK(nothing.data() == nullptr);
  CHECK(nothing.rank() == 0);
  CHECK(nothing.extents().empty());
  CHECK(nothing.strides().empty());
  CHECK(nothing.size() == 1);  // the empty product, as of a scalar
  static_assert(TensorView<double>().data() == nullptr);
}

TEST_CASE("a row-major view", "[tensor_view]") {
  std::vector<int> data(2 * 3 * 4 * 5);
  const TensorView<int> x(data.data(), {2, 3, 4, 5});
  CHECK(x.data() == data.data());
  CHECK(x.rank() == 4);
  CHECK(list(x.extents()) == Indices{2, 3, 4, 5});
  CHECK(list(x.strides()) == Indices{60, 20, 5, 1});
  CHECK(x.extent(2) == 4);
  CHECK(x.stride(2) == 5);
  CHECK(x.size() == 120);
  CHECK(&x(1, 2, 3, 4) == &data[119]);
  CHECK(&x(0, 1, 0, 2) == &data[22]);

  const Indices extents{2, 3, 4, 5};
  const TensorView<int> same(data.data(), std::span<const Index>(extents));
  CHECK(list(same.extents()) == list(x.extents()));
  CHECK(list(same.strides()) == list(x.strides()));
}

TEST_CASE("views of rank 0, 1 and max_rank", "[tensor_view]") {
  int data[1 << syncbn::max_rank] = {};
  const TensorView<int> scalar(data, std::span<const Index>());
  CHECK(scalar.rank() == 0);
  CHECK(scalar.size() == 1);
  CHECK(&scalar() == data);

  const TensorView<int> vector(data, {7});
  CHECK(&vector[6] == data + 6);
  CHECK(&vector(6) == data + 6);

  const TensorView<int> largest(data, {2, 2, 2, 2, 2, 2, 2, 2});
  CHECK(largest.rank() == syncbn::max_rank);
  CHECK(&largest(1, 1, 1, 1, 1, 1, 1, 1) == data + 255);
}

TEST_CASE("extents of 0", "[tensor_view]") {
  const TensorView<float> x(nullptr, {4, 0, 3});
  CHECK(x.size() == 0);
  CHECK(x.extent(1) == 0);
  CHECK(x.stride(1) == 3);
}

TEST_CASE("sizes beyond 2^31", "[tensor_view]") {
  const TensorView<char> x(nullptr, {70000, 70000});
  CHECK(x.size() == Index{4900000000});
  const TensorView<char> channels_last = TensorView<char>::channels_last(nullptr, {3, 70000, 70000});
  CHECK(channels_last.stride(0) == Index{4900000000});
}

TEST_CASE("strides of the caller's choice", "[tensor_view]") {
  std::array<int, 24> data{};
  SECTION("padded rows") {
    const TensorView<int> x(data.data(), {2, 3}, {8, 2});
    CHECK(list(x.strides()) == Indices{8, 2});
    CHECK(&x(1, 2) == &data[12]);
  }
  SECTION("negative") {
    const TensorView<int> x(data.data() + 5, {2, 3}, {-3, -1});
    CHECK(&x(0, 0) == &data[5]);
    CHECK(&x(1, 2) == &data[0]);
  }
  SECTION("zero") {
    const TensorView<int> x(data.data(), {4, 3}, {0, 1});
    CHECK(&x(3, 2) == &x(0, 2));
    CHECK(x.size() == 12);
  }
  SECTION("as spans") {
    const Indices extents{2, 3};
    const Indices strides{8, 2};
    const TensorView<int> x(data.data(), std::span<const Index>(extents), std::span<const Index>(strides));
    CHECK(&x(1, 2) == &data[12]);
  }
}

TEST_CASE("channels innermost", "[tensor_view]") {
  std::vector<int> data(2 * 3 * 4 * 5);
  const auto x = TensorView<int>::channels_last(data.data(), {2, 3, 4, 5});  // memory: (N, H, W, C)
  CHECK(list(x.extents()) == Indices{2, 3, 4, 5});
  CHECK(list(x.strides()) == Indices{60, 1, 15, 3});
  const TensorView<int> memory(data.data(), {2, 4, 5, 3});
  CHECK(&x(1, 2, 3, 4) == &memory(1, 3, 4, 2));

  const auto matrix = TensorView<int>::channels_last(data.data(), {6, 5});
  CHECK(list(matrix.strides()) == Indices{5, 1});
  CHECK_THROWS_AS(TensorView<int>::channels_last(data.data(), {6}), ShapeError);
}

TEST_CASE("impossible extents and strides are refused", "[tensor_view]") {
  int data = 0;
  CHECK_THROWS_AS(TensorView<int>(&data, {1, 1, 1, 1, 1, 1, 1, 1, 1}), ShapeError);
  CHECK_THROWS_AS(TensorView<int>(&data, {2, -1}), ShapeError);
  CHECK_THROWS_AS(TensorView<int>(&data, {2, -1}, {1, 1}), ShapeError);
  CHECK_THROWS_AS(TensorView<int>(&data, {2, 1}, {1}), ShapeError);
  CHECK_THROWS_AS(TensorView<int>(&data, {2}, {1, 1}), ShapeError);
  CHECK_THROWS_AS(TensorView<int>::channels_last(&data, {2, -1}), ShapeError);

  const auto message = [&](auto make) {
    try {
      make();
    } catch (const ShapeError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  CHECK(message([&] { TensorView<int>(&data, {1, 1, 1, 1, 1, 1, 1, 1, 1}); }) ==
        "a tensor of 9 dimensions; at most 8 are possible");
  CHECK(message([&] { TensorView<int>(&data, {2, -1}); }) == "extent -1 is negative");
  CHECK(message([&] { TensorView<int>(&data, {2, 1}, {1}); }) == "a tensor with 2 extents and 1 strides");
}

TEST_CASE("slice", "[tensor_view]") {
  std::array<int, 24> data{};
  const TensorView<int> x(data.data(), {2, 3, 4});
  const auto middle = x.slice(2, 1, 3);
  CHECK(list(middle.extents()) == Indices{2, 3, 2});
  CHECK(list(middle.strides()) == list(x.strides()));
  CHECK(&middle(1, 2, 1) == &x(1, 2, 2));

  const auto both = x.slice(0, 1, 2).slice(1, 2, 3);
  CHECK(list(both.extents()) == Indices{1, 1, 4});
  CHECK(both.data() == &x(1, 2, 0));

  SECTION("the whole") { CHECK(x.slice(1, 0, 3).data() == x.data()); }
  SECTION("of reversed elements") {
    const TensorView<int> reversed(data.data() + 23, {24}, {-1});
    CHECK(&reversed.slice(0, 4, 6)[1] == &data[18]);
  }
  SECTION("nothing, at either end: the pointer stays within the tensor") {
    CHECK(x.slice(0, 2, 2).size() == 0);
    CHECK(x.slice(0, 2, 2).data() == x.data());
    CHECK(x.slice(0, 0, 0).size() == 0);
  }
  SECTION("beyond the extent") {
    CHECK_THROWS_AS(x.slice(1, 0, 4), ShapeError);
    CHECK_THROWS_AS(x.slice(1, -1, 2), ShapeError);
    CHECK_THROWS_AS(x.slice(1, 2, 1), ShapeError);
    CHECK_THROWS_AS(x.slice(3, 0, 1), ShapeError);
    CHECK_THROWS_AS(x.slice(-1, 0, 1), ShapeError);
    CHECK_THROWS_WITH(x.slice(1, 2, 5), "slice [2, 5) of dimension 1 does not lie within the tensor");
  }
}

TEST_CASE("permute", "[tensor_view]") {
  std::array<int, 24> data{};
  const TensorView<int> x(data.data(), {2, 3, 4});
  const auto p = x.permute({2, 0, 1});
  CHECK(list(p.extents()) == Indices{4, 2, 3});
  CHECK(list(p.strides()) == Indices{1, 12, 4});
  for (Index i = 0; i < 2; ++i) {
    for (Index j = 0; j < 3; ++j) {
      for (Index k = 0; k < 4; ++k) CHECK(&p(k, i, j) == &x(i, j, k));
    }
  }
  CHECK(list(p.permute({1, 2, 0}).strides()) == list(x.strides()));

  for (const auto order : {std::initializer_list<int>{0, 1}, {0, 1, 2, 0}, {0, 1, 1}, {0, 1, 3}, {0, 1, -1}, {}}) {
    CHECK_THROWS_AS(x.permute(order), ShapeError);
  }
}

TEST_CASE("views of const data cannot write", "[tensor_view]") {
  std::array<float, 6> data{};
  TensorView<float> x(data.data() + 5, {2, 3}, {-3, -1});
  const TensorView<const float> read_only = x;
  CHECK(read_only.data() == x.data());
  CHECK(list(read_only.extents()) == list(x.extents()));
  CHECK(list(read_only.strides()) == list(x.strides()));

  static_assert(std::same_as<decltype(x(0, 0)), float&>);
  static_assert(std::same_as<decltype(std::as_const(x)(0, 0)), float&>);  // the view is const, not the elements
  static_assert(std::same_as<decltype(read_only(0, 0)), const float&>);
  static_assert(std::same_as<TensorView<const float>::element_type, const float>);
  static_assert(std::same_as<TensorView<const float>::value_type, float>);
  static_assert(std::convertible_to<TensorView<float>, TensorView<const float>>);
  static_assert(!std::convertible_to<TensorView<const float>, TensorView<float>>);
  static_assert(!std::convertible_to<TensorView<double>, TensorView<const float>>);
  static_assert(!std::convertible_to<TensorView<float, DeviceSpace>, TensorView<const float>>);
}

TEST_CASE("views are cheap values", "[tensor_view]") {
  static_assert(std::is_trivially_copyable_v<TensorView<float>>);
  static_assert(std::semiregular<TensorView<float>>);
  int data[6] = {1, 2, 3, 4, 5, 6};
  TensorView<int> x(data, {2, 3});
  TensorView<int> copy = x;
  copy(1, 1) = 50;
  CHECK(x(1, 1) == 50);
  copy = x.slice(1, 0, 1);
  CHECK(x.extent(1) == 3);
}

namespace {

constexpr int sum_of_diagonal() {
  int data[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  const TensorView<int> x(data, {3, 3});
  const TensorView<const int> turned = x.permute({1, 0}).slice(0, 1, 3);
  const auto last = TensorView<int>::channels_last(data, {3, 3});
  const TensorView<int> diagonal(data, {3}, {4});
  return diagonal[0] + diagonal[1] + diagonal[2] + 100 * turned(0, 2) + 1000 * last(2, 2) +
         10000 * static_cast<int>(x.size());
}
static_assert(sum_of_diagonal() == 15 + 800 + 9000 + 90000);

}  // namespace

// ---- view() ---------------------------------------------------------------------------------------------------------

namespace acme {

struct Grid {  // a container: const data where it is const
  std::vector<double> values;
  Index rows, columns;
};
struct Handle {  // a handle: what it refers to is writable whether or not the handle is const
  double* data;
};
struct ReadOnly {
  double values[4];
};
struct Unknown {};

}  // namespace acme

template <>
struct syncbn::tensor_traits<acme::Grid> {
  static auto view(acme::Grid& g) { return TensorView<double>(g.values.data(), {g.rows, g.columns}); }
  static auto view(const acme::Grid& g) { return TensorView<const double>(g.values.data(), {g.rows, g.columns}); }
};
template <>
struct syncbn::tensor_traits<acme::Handle> {
  static auto view(const acme::Handle& h) { return TensorView<double, DeviceSpace>(h.data, {4}); }
};
template <>
struct syncbn::tensor_traits<acme::ReadOnly> {
  static auto view(const acme::ReadOnly& r) { return TensorView<const double>(r.values, {4}); }
};

namespace {

template <class T>
concept viewable = requires(T&& t) { syncbn::view(std::forward<T>(t)); };

}  // namespace

TEST_CASE("view() goes through tensor_traits and keeps constness and memory space", "[tensor_view]") {
  acme::Grid grid{std::vector<double>(6), 2, 3};
  CHECK(syncbn::view(grid).data() == grid.values.data());
  CHECK(list(syncbn::view(std::as_const(grid)).extents()) == Indices{2, 3});
  static_assert(std::same_as<decltype(syncbn::view(grid)), TensorView<double>>);
  static_assert(std::same_as<decltype(syncbn::view(std::as_const(grid))), TensorView<const double>>);
  static_assert(std::same_as<decltype(syncbn::view(acme::Handle{})), TensorView<double, DeviceSpace>>);
  static_assert(
      std::same_as<decltype(syncbn::view(std::declval<const acme::Handle&>())), TensorView<double, DeviceSpace>>);
  static_assert(std::same_as<decltype(syncbn::view(std::declval<acme::ReadOnly&>())), TensorView<const double>>);
}

TEST_CASE("a view is its own view", "[tensor_view]") {
  float data[6] = {};
  const TensorView<float> x(data, {2, 3}, {1, 2});
  CHECK(syncbn::view(x).data() == data);
  CHECK(list(syncbn::view(x).strides()) == Indices{1, 2});
  CHECK(syncbn::view(TensorView<const float>(x)).data() == data);
  static_assert(std::same_as<decltype(syncbn::view(x)), TensorView<float>>);
  static_assert(
      std::same_as<decltype(syncbn::view(std::declval<TensorView<const float>&>())), TensorView<const float>>);
}

TEST_CASE("view() is an object that rejects what has no traits", "[tensor_view]") {
  static_assert(viewable<acme::Grid&>);
  static_assert(viewable<const acme::Grid&>);
  static_assert(viewable<acme::Grid>);
  static_assert(!viewable<acme::Unknown>);
  static_assert(!viewable<int>);
  static_assert(!viewable<float*>);
  static_assert(!viewable<std::vector<float>>);
  // An object, so that no argument's namespace is searched for another one.
  const auto& by_value = syncbn::view;
  acme::ReadOnly r{{1, 2, 3, 4}};
  CHECK(by_value(r)[3] == 4);
}
