#include <syncbn/interop/xtensor.hpp>

#include <array>
#include <complex>
#include <concepts>
#include <vector>

#include <xtensor/xadapt.hpp>
#include <xtensor/xarray.hpp>
#include <xtensor/xbuilder.hpp>
#include <xtensor/xcomplex.hpp>
#include <xtensor/xfixed.hpp>
#include <xtensor/xstrided_view.hpp>
#include <xtensor/xtensor.hpp>
#include <xtensor/xview.hpp>

#include <syncbn/backends/cpu_backend.hpp>
#include <syncbn/batch_norm.hpp>
#include <syncbn/check.hpp>

#include "support/catch.hpp"

namespace {

using syncbn::Index;

template <class T>
using element_of = typename syncbn::view_t<T>::element_type;

// Whether a tensor of rank 3 and its view have the same elements at the same indices.
template <class Tensor>
bool same_places(Tensor&& t) {
  const auto v = syncbn::view(t);
  if (v.rank() != 3) return false;
  for (Index i = 0; i < v.extent(0); ++i) {
    for (Index j = 0; j < v.extent(1); ++j) {
      for (Index k = 0; k < v.extent(2); ++k) {
        if (&v(i, j, k) != &t(i, j, k)) return false;
      }
    }
  }
  return v.size() == static_cast<Index>(t.size()) && v.size() > 0;
}

using Columns = xt::xtensor<double, 3, xt::layout_type::column_major>;

}  // namespace

TEST_CASE("xtensor's containers and adaptors", "[xtensor]") {
  xt::xarray<float> any = xt::zeros<float>({2, 3, 4});
  xt::xtensor<float, 3> rows = any;
  Columns columns = any;
  xt::xtensor_fixed<float, xt::xshape<2, 3, 4>> fixed = any;
  CHECK(same_places(any));
  CHECK(same_places(rows));
  CHECK(same_places(columns));
  CHECK(same_places(fixed));
  CHECK(syncbn::view(columns).stride(0) == 1);

  std::vector<float> memory(24);
  CHECK(same_places(xt::adapt(memory, std::array<std::size_t, 3>{2, 3, 4})));
  CHECK(same_places(xt::adapt(memory.data(), memory.size(), xt::no_ownership(), std::vector<std::size_t>{4, 3, 2})));

  const xt::xarray<float> too_many = xt::zeros<float>(std::vector<std::size_t>(9, 1));
  CHECK_THROWS_AS(syncbn::view(too_many), syncbn::ShapeError);
}

TEST_CASE("xtensor's views, where they have strides", "[xtensor]") {
  Columns a = xt::zeros<double>({4, 5, 6});
  auto part = xt::view(a, xt::range(1, 3), xt::all(), xt::range(0, 6, 2));
  auto turned = xt::transpose(a);
  auto backwards = xt::strided_view(a, {xt::all(), xt::range(4, 0, -1), xt::all()});
  CHECK(same_places(part));
  CHECK(same_places(turned));
  CHECK(same_places(backwards));
  CHECK(syncbn::view(backwards).stride(1) == -4);

  auto chosen = xt::view(a, xt::all(), xt::keep(0, 3), xt::all());
  const auto sum = a + a;
  xt::xarray<std::complex<double>> pairs = xt::zeros<std::complex<double>>({2, 2});
  auto real = xt::real(pairs);
  STATIC_REQUIRE_FALSE(syncbn::tensor<decltype(chosen)>);
  STATIC_REQUIRE_FALSE(syncbn::tensor<decltype(sum)>);
  STATIC_REQUIRE_FALSE(syncbn::tensor<decltype(real)>);
}

TEST_CASE("constness of xtensor's containers is kept", "[xtensor]") {
  STATIC_REQUIRE(std::same_as<element_of<xt::xarray<float>>, float>);
  STATIC_REQUIRE(std::same_as<element_of<const xt::xarray<float>>, const float>);
  const xt::xarray<float> a = xt::zeros<float>({2, 3});
  auto turned = xt::transpose(a);
  STATIC_REQUIRE(std::same_as<element_of<decltype(turned)>, const float>);
  STATIC_REQUIRE(syncbn::check_tensor<xt::xtensor<double, 4>>());
  CHECK(syncbn::view(a).data() == a.data());
}

// xtensor gives a dimension of extent 1 the stride 0, also where it is written.
TEST_CASE("a layer on xtensor's arrays gives what it gives on views of the same memory", "[xtensor]") {
  const auto rows = GENERATE(1, 3);
  xt::xarray<float> x = xt::arange<float>(static_cast<float>(2 * rows * 4)).reshape({2, rows, 1, 4});
  xt::xarray<float> y = xt::zeros_like(x), dx = xt::zeros_like(x);
  std::vector<float> expected(x.size()), expected_dx(x.size());
  const syncbn::TensorView<const float> same_x(x.data(), {2, rows, 1, 4});
  const syncbn::TensorView<float> same_y(expected.data(), {2, rows, 1, 4}),
      same_dx(expected_dx.data(), {2, rows, 1, 4});

  syncbn::BatchNorm<2> bn(rows), same(rows);
  bn.backward(x, x, bn.forward(x, y), dx);
  same.backward(same_x, same_x, same.forward(same_x, same_y), same_dx);
  CHECK(std::vector<float>(y.begin(), y.end()) == expected);
  CHECK(std::vector<float>(dx.begin(), dx.end()) == expected_dx);
}
