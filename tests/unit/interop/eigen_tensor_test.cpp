#include <syncbn/interop/eigen_tensor.hpp>

#include <concepts>
#include <cstdint>
#include <type_traits>
#include <vector>

#include <syncbn/backends/cpu_backend.hpp>
#include <syncbn/batch_norm.hpp>
#include <syncbn/check.hpp>

#include "support/catch.hpp"

namespace {

using syncbn::Index;

template <class Scalar, int Rank>
using Columns = Eigen::Tensor<Scalar, Rank>;  // the first index is the fastest
template <class Scalar, int Rank>
using Rows = Eigen::Tensor<Scalar, Rank, Eigen::RowMajor>;
using Sizes = Eigen::Sizes<2, 3, 4>;

template <class T>
using element_of = typename syncbn::view_t<T>::element_type;

// Whether a tensor of rank 3 and its view have the same elements at the same indices.
template <class Tensor>
bool same_places(Tensor&& t) {
  using Size = typename std::remove_cvref_t<Tensor>::Index;
  const auto v = syncbn::view(t);
  if (v.rank() != 3) return false;
  const Eigen::DSizes<Eigen::Index, 3> sizes(t.dimensions());  // of whatever index type
  for (int d = 0; d < 3; ++d) {
    if (v.extent(d) != sizes[static_cast<std::size_t>(d)]) return false;
  }
  for (Index i = 0; i < v.extent(0); ++i) {
    for (Index j = 0; j < v.extent(1); ++j) {
      for (Index k = 0; k < v.extent(2); ++k) {
        if (&v(i, j, k) != &t(static_cast<Size>(i), static_cast<Size>(j), static_cast<Size>(k))) return false;
      }
    }
  }
  return true;
}

}  // namespace

TEST_CASE("Eigen's tensors, in either storage order", "[eigen_tensor]") {
  Columns<float, 3> columns(2, 3, 4);
  Rows<float, 3> rows(2, 3, 4);
  CHECK(same_places(columns));
  CHECK(same_places(rows));
  CHECK(syncbn::view(columns).stride(0) == 1);
  CHECK(syncbn::view(rows).stride(2) == 1);
  CHECK(syncbn::view(rows).stride(0) == 12);
  Eigen::Tensor<double, 3, Eigen::RowMajor, int> small_index(2, 3, 4);
  CHECK(same_places(small_index));

  Rows<float, 8> largest(1, 2, 1, 2, 1, 2, 1, 2);
  CHECK(syncbn::view(largest).rank() == 8);
  CHECK(&syncbn::view(largest)(0, 1, 0, 1, 0, 1, 0, 1) == largest.data() + 15);
  Rows<float, 1> vector(5);
  CHECK(&syncbn::view(vector)[4] == vector.data() + 4);
  Rows<float, 2> empty(0, 3);
  CHECK(syncbn::view(empty).size() == 0);
}

TEST_CASE("Eigen's maps and fixed-size tensors", "[eigen_tensor]") {
  std::vector<float> data(24);
  CHECK(same_places(Eigen::TensorMap<Columns<float, 3>>(data.data(), 2, 3, 4)));
  CHECK(same_places(Eigen::TensorMap<Rows<float, 3>>(data.data(), 2, 3, 4)));
  Eigen::TensorFixedSize<float, Sizes> fixed;
  Eigen::TensorFixedSize<float, Sizes, Eigen::RowMajor> fixed_rows;
  CHECK(same_places(fixed));
  CHECK(same_places(fixed_rows));
  CHECK(same_places(Eigen::TensorMap<Eigen::TensorFixedSize<float, Sizes>>(data.data(), Sizes())));
}

TEST_CASE("constness of Eigen's tensors is kept", "[eigen_tensor]") {
  STATIC_REQUIRE(std::same_as<element_of<Rows<float, 4>>, float>);
  STATIC_REQUIRE(std::same_as<element_of<const Rows<float, 4>>, const float>);
  STATIC_REQUIRE(std::same_as<element_of<Eigen::TensorMap<Rows<double, 4>>>, double>);
  STATIC_REQUIRE(std::same_as<element_of<const Eigen::TensorMap<Rows<double, 4>>>, const double>);
  STATIC_REQUIRE(std::same_as<element_of<Eigen::TensorMap<const Rows<double, 4>>>, const double>);
  STATIC_REQUIRE(std::same_as<element_of<Eigen::TensorMap<Rows<const double, 4>>>, const double>);
  STATIC_REQUIRE(std::same_as<element_of<Eigen::TensorFixedSize<float, Sizes>>, float>);
  STATIC_REQUIRE(std::same_as<element_of<const Eigen::TensorFixedSize<float, Sizes>>, const float>);
  STATIC_REQUIRE(syncbn::check_tensor<Rows<Eigen::half, 4>>());
  STATIC_REQUIRE(syncbn::check_tensor<Eigen::TensorMap<const Rows<Eigen::bfloat16, 4>>>());

  Rows<float, 3> rows(2, 3, 4);
  rows.setConstant(5);
  const auto& read_only = rows;
  CHECK(syncbn::view(read_only).data() == rows.data());
  const Eigen::TensorMap<const Rows<float, 3>> map(rows.data(), 2, 3, 4);
  CHECK(syncbn::view(map).data() == rows.data());
  CHECK(syncbn::view(map)(1, 2, 3) == 5);
}

TEST_CASE("lazy expressions are no tensors", "[eigen_tensor]") {
  Rows<float, 2> a(2, 2);
  const auto sum = a + a;
  STATIC_REQUIRE_FALSE(syncbn::tensor<decltype(sum)>);
  CHECK(syncbn::view(a).rank() == 2);
}

namespace {

template <class Tensor>
std::vector<float> train(const Tensor& x, const Tensor& dy) {
  syncbn::BatchNorm2d<> bn(x.dimension(1));
  Tensor y(x.dimensions());
  Tensor dx(x.dimensions());
  const auto saved = bn.forward(x, y);
  bn.backward(dy, x, saved, dx);
  std::vector<float> result;
  for (const Tensor* t : {&y, &dx}) {
    for (Eigen::Index n = 0; n < x.dimension(0); ++n) {
      for (Eigen::Index c = 0; c < x.dimension(1); ++c) {
        for (Eigen::Index h = 0; h < x.dimension(2); ++h) {
          for (Eigen::Index w = 0; w < x.dimension(3); ++w) result.push_back(static_cast<float>((*t)(n, c, h, w)));
        }
      }
    }
  }
  return result;
}

}  // namespace

TEMPLATE_TEST_CASE("a layer on Eigen's tensors gives the same in both storage orders", "[eigen_tensor]", float,
                   Eigen::half, Eigen::bfloat16) {
  Columns<TestType, 4> x(3, 9, 4, 5), dy(3, 9, 4, 5);
  Rows<TestType, 4> x_rows(3, 9, 4, 5), dy_rows(3, 9, 4, 5);
  std::uint32_t state = 1;
  for (Eigen::Index n = 0; n < 3; ++n) {
    for (Eigen::Index c = 0; c < 9; ++c) {
      for (Eigen::Index h = 0; h < 4; ++h) {
        for (Eigen::Index w = 0; w < 5; ++w) {
          const auto next = [&] {
            return static_cast<float>((state = state * 1664525U + 1013904223U) >> 20U) / 512 - 4;
          };
          x(n, c, h, w) = x_rows(n, c, h, w) = TestType(next());
          dy(n, c, h, w) = dy_rows(n, c, h, w) = TestType(next());
        }
      }
    }
  }
  const auto columns = train(x, dy);
  CHECK(columns == train(x_rows, dy_rows));
  CHECK(columns.size() == 2 * 3 * 9 * 4 * 5);
  CHECK(columns.front() != columns.back());
}
