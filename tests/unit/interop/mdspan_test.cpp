#include <syncbn/interop/mdspan.hpp>

#include <array>
#include <concepts>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <vector>

#include <syncbn/backends/cpu_backend.hpp>
#include <syncbn/batch_norm.hpp>
#include <syncbn/check.hpp>

#include "support/catch.hpp"

// The standard library's, or that of the CUDA toolkit, which host compilers read too.
#if __has_include(<mdspan>) && __cplusplus > 202002L
#include <mdspan>
namespace md = std;
#define SYNCBN_TEST_MDSPAN 1
#elif __has_include(<cuda/std/mdspan>)
#include <cuda/mdspan>
#include <cuda/std/array>
#include <cuda/std/mdspan>
namespace md = cuda::std;
#define SYNCBN_TEST_MDSPAN 1
#else
#define SYNCBN_TEST_MDSPAN 0
#endif

#if SYNCBN_TEST_MDSPAN

using syncbn::Index;

namespace {

template <class T>
using element_of = typename syncbn::view_t<T>::element_type;
template <class T>
constexpr bool is_tensor = syncbn::tensor<T>;

using Cube = md::dextents<int, 3>;

// Not a reference to an element: something computed from it.
struct Doubled : md::default_accessor<float> {
  using offset_policy = Doubled;
  using reference = float;
  reference access(float* p, std::size_t i) const { return 2 * p[i]; }
};

// A layout of another memory, and one without strides.
struct FarAway : md::default_accessor<float> {
  using offset_policy = FarAway;
};

// Every other number of its memory.
struct EverySecond : md::default_accessor<float> {
  using offset_policy = EverySecond;
  float& access(float* p, std::size_t i) const { return p[2 * i]; }
};

struct Diagonals {
  template <class Extents>
  struct mapping {
    using extents_type = Extents;
    using index_type = typename Extents::index_type;
    using size_type = typename Extents::size_type;
    using rank_type = typename Extents::rank_type;
    using layout_type = Diagonals;
    Extents shape;
    constexpr const Extents& extents() const noexcept { return shape; }
    constexpr index_type operator()(index_type i, index_type j) const noexcept {
      return i * shape.extent(1) + (i + j) % shape.extent(1);
    }
    constexpr index_type required_span_size() const noexcept { return shape.extent(0) * shape.extent(1); }
    static constexpr bool is_always_unique() noexcept { return true; }
    static constexpr bool is_always_exhaustive() noexcept { return true; }
    static constexpr bool is_always_strided() noexcept { return false; }
    static constexpr bool is_unique() noexcept { return true; }
    static constexpr bool is_exhaustive() noexcept { return true; }
    // Strided after all where there is only one row.
    constexpr bool is_strided() const noexcept { return shape.extent(0) == 1; }
    constexpr index_type stride(rank_type d) const noexcept { return d == 0 ? shape.extent(1) : 1; }
  };
};

}  // namespace

template <>
struct syncbn::mdspan_space<FarAway> {
  struct type {};
};

#if !defined(__cpp_lib_mdspan)
template <>
struct syncbn::mdspan_space<cuda::restrict_mdspan<float, Cube>::accessor_type> {
  using type = HostSpace;
};
#endif

TEST_CASE("mdspans of every layout", "[mdspan]") {
  std::vector<float> data(60);
  std::iota(data.begin(), data.end(), 0.0F);
  const md::mdspan<float, Cube> rows(data.data(), 3, 4, 5);
  const md::mdspan<float, Cube, md::layout_left> columns(data.data(), 3, 4, 5);
  const md::layout_stride::mapping<Cube> gaps(Cube(2, 3, 4), md::array<int, 3>{1, 16, 4});
  const md::mdspan<float, Cube, md::layout_stride> strided(data.data(), gaps);
  const md::mdspan<const float, md::extents<long, 3, 4, 5>> fixed(data.data());

  CHECK(syncbn::view(rows)(2, 1, 3) == 48);
  CHECK(syncbn::view(columns)(2, 1, 3) == 41);
  CHECK(syncbn::view(columns).stride(0) == 1);
  CHECK(syncbn::view(strided)(1, 2, 3) == 45);
  CHECK(syncbn::view(strided).extent(1) == 3);
  CHECK(syncbn::view(fixed)(2, 1, 3) == 48);
  CHECK(syncbn::view(fixed).rank() == 3);
}

TEST_CASE("an mdspan is as writable as its elements, and lies where its accessor says", "[mdspan]") {
  STATIC_REQUIRE(std::same_as<element_of<md::mdspan<float, Cube>>, float>);
  STATIC_REQUIRE(std::same_as<element_of<const md::mdspan<float, Cube>>, float>);
  STATIC_REQUIRE(std::same_as<element_of<md::mdspan<const float, Cube>>, const float>);
  STATIC_REQUIRE(std::same_as<syncbn::view_t<md::mdspan<float, Cube>>::memory_space, syncbn::HostSpace>);
  STATIC_REQUIRE(std::same_as<syncbn::view_t<md::mdspan<float, Cube, md::layout_right, FarAway>>::memory_space,
                              syncbn::mdspan_space<FarAway>::type>);
  STATIC_REQUIRE_FALSE(is_tensor<md::mdspan<float, Cube, md::layout_right, Doubled>>);
  STATIC_REQUIRE_FALSE(is_tensor<md::mdspan<float, Cube, md::layout_right, EverySecond>>);
  STATIC_REQUIRE(syncbn::check_tensor<md::mdspan<double, Cube>>());
#if !defined(__cpp_lib_mdspan)
  STATIC_REQUIRE(syncbn::check_tensor<cuda::restrict_mdspan<float, Cube>>());
#endif
}

TEST_CASE("a layout that has no strides is refused", "[mdspan]") {
  using Grid = md::mdspan<float, md::dextents<int, 2>, Diagonals>;
  std::vector<float> data(12);
  const Grid grid(data.data(), Diagonals::mapping<md::dextents<int, 2>>{md::dextents<int, 2>(3, 4)});
  const Grid one_row(data.data(), Diagonals::mapping<md::dextents<int, 2>>{md::dextents<int, 2>(1, 4)});
  CHECK_THROWS_AS(syncbn::view(grid), syncbn::ShapeError);
  CHECK(syncbn::view(one_row).stride(1) == 1);
}

TEST_CASE("a layer on mdspans gives what it gives on views of the same memory", "[mdspan]") {
  std::vector<float> x(2 * 3 * 4), y(x.size()), expected(x.size());
  std::iota(x.begin(), x.end(), -5.0F);
  syncbn::BatchNorm<1> bn(3), same(3);
  decltype(bn)::Saved saved;
  bn.forward(md::mdspan<const float, Cube>(x.data(), 2, 3, 4),
             md::mdspan<float, Cube, md::layout_left>(y.data(), 2, 3, 4), saved);
  const syncbn::TensorView<float> result(expected.data(), {2, 3, 4}, {1, 2, 6});
  same.forward(syncbn::TensorView<const float>(x.data(), {2, 3, 4}), result, saved);
  CHECK(y == expected);
}

#else

TEST_CASE("mdspan", "[mdspan]") {
  std::puts("skipped: this standard library has no <mdspan>, and no CUDA toolkit with <cuda/std/mdspan> was found");
  std::exit(77);
}

#endif
