#include <syncbn/interop/eigen.hpp>

#include <concepts>
#include <type_traits>
#include <utility>
#include <vector>

#include <Eigen/Core>

#include <syncbn/backends/cpu_backend.hpp>
#include <syncbn/batch_norm.hpp>
#include <syncbn/check.hpp>

#include "support/catch.hpp"

namespace {

using Eigen::Dynamic;
using syncbn::Index;
using syncbn::TensorView;

using RowMajorMatrix = Eigen::Matrix<float, Dynamic, Dynamic, Eigen::RowMajor>;
using AnyStride = Eigen::Stride<Dynamic, Dynamic>;

template <class T>
using element_of = typename syncbn::view_t<T>::element_type;

// Whether the view is of the same elements in the same order.
template <class Dense>
bool same_places(Dense&& m) {
  const auto v = syncbn::view(m);
  if (v.rank() != 2 || v.extent(0) != m.rows() || v.extent(1) != m.cols()) return false;
  for (Eigen::Index i = 0; i < m.rows(); ++i) {
    for (Eigen::Index j = 0; j < m.cols(); ++j) {
      if (&v(i, j) != &m.coeffRef(i, j)) return false;
    }
  }
  return true;
}

template <class Vector>
bool same_places_of_vector(Vector&& m) {
  const auto v = syncbn::view(m);
  if (v.rank() != 1 || v.extent(0) != m.size()) return false;
  for (Eigen::Index i = 0; i < m.size(); ++i) {
    if (&v[i] != &m.coeffRef(i)) return false;
  }
  return true;
}

template <class T>
bool tensor_by_reference(const T&) {
  return syncbn::tensor<const T>;
}

}  // namespace

TEST_CASE("Eigen's matrices are (rows, columns), in either storage order", "[eigen]") {
  Eigen::MatrixXf columns(3, 5);
  RowMajorMatrix rows(3, 5);
  Eigen::Matrix<double, 2, 3> fixed;
  Eigen::Array<double, 2, 3, Eigen::RowMajor> array;
  Eigen::ArrayXXf dynamic_array(4, 2);
  CHECK(same_places(columns));
  CHECK(same_places(rows));
  CHECK(same_places(fixed));
  CHECK(same_places(array));
  CHECK(same_places(dynamic_array));
  CHECK(syncbn::view(columns).stride(0) == 1);
  CHECK(syncbn::view(rows).stride(1) == 1);

  Eigen::MatrixXf empty(0, 5);
  CHECK(syncbn::view(empty).size() == 0);
  CHECK(syncbn::view(empty).extent(1) == 5);
}

TEST_CASE("Eigen's vectors are (size)", "[eigen]") {
  Eigen::VectorXf column(4);
  Eigen::RowVectorXd row(4);
  Eigen::Array3f array;
  CHECK(same_places_of_vector(column));
  CHECK(same_places_of_vector(row));
  CHECK(same_places_of_vector(array));
  Eigen::MatrixXf matrix(3, 5);
  RowMajorMatrix rows(3, 5);
  CHECK(same_places_of_vector(matrix.col(2)));
  CHECK(same_places_of_vector(matrix.row(1)));  // its elements lie 3 apart
  CHECK(same_places_of_vector(rows.col(2)));
  CHECK(same_places_of_vector(rows.row(1)));
  CHECK(same_places_of_vector(matrix.diagonal()));
  std::vector<float> data(10);
  CHECK(same_places_of_vector(Eigen::Map<Eigen::VectorXf, 0, Eigen::InnerStride<3>>(data.data(), 4)));
}

TEST_CASE("Eigen's maps, references, blocks and transposes", "[eigen]") {
  std::vector<float> data(60);
  Eigen::MatrixXf matrix(6, 7);
  RowMajorMatrix rows(6, 7);
  CHECK(same_places(Eigen::Map<Eigen::MatrixXf>(data.data(), 3, 5)));
  CHECK(same_places(Eigen::Map<RowMajorMatrix>(data.data(), 3, 5)));
  CHECK(same_places(Eigen::Map<Eigen::MatrixXf, 0, AnyStride>(data.data(), 3, 4, AnyStride(11, 2))));
  CHECK(same_places(Eigen::Map<RowMajorMatrix, 0, AnyStride>(data.data(), 3, 4, AnyStride(11, 2))));
  CHECK(same_places(Eigen::Ref<Eigen::MatrixXf>(matrix)));
  CHECK(same_places(Eigen::Ref<Eigen::MatrixXf>(matrix.block(1, 2, 3, 4))));
  CHECK(same_places(Eigen::Ref<RowMajorMatrix>(rows)));
  CHECK(same_places(matrix.block(1, 2, 3, 4)));
  CHECK(same_places(rows.block(1, 2, 3, 4)));
  CHECK(same_places(rows.topLeftCorner<2, 3>()));
  CHECK(same_places(matrix.middleCols(2, 3)));
  CHECK(same_places(matrix.transpose()));
  CHECK(same_places(rows.block(1, 2, 3, 4).transpose()));
  CHECK(same_places(matrix.array()));
}

TEST_CASE("constness is kept", "[eigen]") {
  STATIC_REQUIRE(std::same_as<element_of<Eigen::MatrixXf>, float>);
  STATIC_REQUIRE(std::same_as<element_of<const Eigen::MatrixXf>, const float>);
  STATIC_REQUIRE(std::same_as<element_of<Eigen::Map<Eigen::MatrixXd>>, double>);
  STATIC_REQUIRE(std::same_as<element_of<const Eigen::Map<Eigen::MatrixXd>>, const double>);
  STATIC_REQUIRE(std::same_as<element_of<Eigen::Map<const Eigen::MatrixXd>>, const double>);
  STATIC_REQUIRE(std::same_as<element_of<const Eigen::Map<const Eigen::MatrixXd>>, const double>);
  STATIC_REQUIRE(std::same_as<element_of<Eigen::Ref<Eigen::MatrixXf>>, float>);
  STATIC_REQUIRE(std::same_as<element_of<Eigen::Ref<const Eigen::MatrixXf>>, const float>);
  STATIC_REQUIRE(std::same_as<element_of<Eigen::Block<Eigen::MatrixXf>>, float>);
  STATIC_REQUIRE(std::same_as<element_of<Eigen::Block<const Eigen::MatrixXf>>, const float>);
  STATIC_REQUIRE(std::same_as<element_of<Eigen::ArrayXXf>, float>);
  STATIC_REQUIRE(std::same_as<element_of<Eigen::VectorXd>, double>);

  const Eigen::MatrixXf matrix = Eigen::MatrixXf::Constant(3, 5, 2);
  CHECK(syncbn::view(matrix).data() == matrix.data());
  const Eigen::Ref<const Eigen::MatrixXf> ref(matrix);
  CHECK(syncbn::view(ref).data() == matrix.data());
  CHECK(syncbn::view(ref)(2, 4) == 2);
  const auto block = matrix.block(1, 1, 2, 2);
  CHECK(syncbn::view(block).data() == &matrix(1, 1));
}

TEST_CASE("expressions without memory are no tensors", "[eigen]") {
  const Eigen::MatrixXf a(2, 2), b(2, 2);
  CHECK(tensor_by_reference(a));
  CHECK_FALSE(tensor_by_reference(a + b));
  CHECK_FALSE(tensor_by_reference(a * b));
  CHECK_FALSE(tensor_by_reference(a.cast<double>()));
  CHECK_FALSE(tensor_by_reference(2 * a));
  STATIC_REQUIRE_FALSE(syncbn::tensor<Eigen::MatrixXi::Scalar>);
  STATIC_REQUIRE(syncbn::tensor<Eigen::MatrixXi>);
  STATIC_REQUIRE_FALSE(syncbn::readable_by<const Eigen::MatrixXi, syncbn::CpuBackend<double>>);  // int has no format
}

TEST_CASE("Eigen's 16-bit types are known", "[eigen]") {
  using HalfMatrix = Eigen::Matrix<Eigen::half, Dynamic, Dynamic>;
  STATIC_REQUIRE(syncbn::scalar_kind<Eigen::half>::value == syncbn::ScalarKind::f16);
  STATIC_REQUIRE(syncbn::scalar_kind<Eigen::bfloat16>::value == syncbn::ScalarKind::bf16);
  STATIC_REQUIRE(syncbn::check_tensor<HalfMatrix>());
  STATIC_REQUIRE(syncbn::writable_by<HalfMatrix, syncbn::CpuBackend<float>>);
  HalfMatrix m(2, 3);
  CHECK(same_places(m));
}

// ---- A layer on them ------------------------------------------------------------------------------------------------

namespace {

// y and dx of x and dy, whatever tensors they are; their elements are read by `at(tensor, row, column)`.
template <class Tensor, class At>
std::vector<float> train(const Tensor& x, const Tensor& dy, Tensor& y, Tensor& dx, const At& at) {
  syncbn::BatchNorm1d<> bn(11);
  const auto saved = bn.forward(x, y);
  bn.backward(dy, x, saved, dx);
  std::vector<float> result;
  for (const Tensor* t : {&y, &dx}) {
    for (Index i = 0; i < 20; ++i) {
      for (Index j = 0; j < 11; ++j) result.push_back(static_cast<float>(at(*t, i, j)));
    }
  }
  return result;
}

template <class Matrix>
std::vector<float> train(const Matrix& x, const Matrix& dy) {
  Matrix y(20, 11);
  Matrix dx(20, 11);
  return train(x, dy, y, dx, [](const Matrix& m, Index i, Index j) { return m(i, j); });
}

}  // namespace

TEMPLATE_TEST_CASE("a layer on Eigen's matrices", "[eigen]", float, Eigen::half, Eigen::bfloat16) {
  using Columns = Eigen::Matrix<TestType, Dynamic, Dynamic>;
  using Rows = Eigen::Matrix<TestType, Dynamic, Dynamic, Eigen::RowMajor>;
  const Columns x = Eigen::MatrixXf::Random(20, 11).cast<TestType>();
  const Columns dy = Eigen::MatrixXf::Random(20, 11).cast<TestType>();
  const auto columns = train(x, dy);
  CHECK(columns == train(Rows(x), Rows(dy)));

  // The same numbers in plain views: rows are samples, columns are channels.
  std::vector<std::vector<TestType>> data(4, std::vector<TestType>(20 * 11));
  std::vector<TensorView<TestType>> views;
  for (auto& d : data) views.emplace_back(d.data(), std::initializer_list<Index>{20, 11});
  for (Index i = 0; i < 20; ++i) {
    for (Index j = 0; j < 11; ++j) {
      views[0](i, j) = x(i, j);
      views[1](i, j) = dy(i, j);
    }
  }
  CHECK(columns == train(views[0], views[1], views[2], views[3],
                         [](const TensorView<TestType>& v, Index i, Index j) { return v(i, j); }));
}

TEST_CASE("segments of vectors are tensors of one dimension", "[eigen]") {
  Eigen::VectorXf v = Eigen::VectorXf::LinSpaced(7, 0, 6);
  const auto segment = syncbn::view(v.segment(2, 3));
  CHECK(segment.rank() == 1);
  CHECK(segment.extent(0) == 3);
  CHECK(segment.data() == v.data() + 2);
  const Eigen::MatrixXf m = Eigen::MatrixXf::Random(4, 5);
  const auto head = syncbn::view(m.row(1).head(4));  // read-only, with the stride of a row
  STATIC_REQUIRE(std::is_same_v<decltype(head)::element_type, const float>);
  CHECK(head.stride(0) == 4);
  CHECK(head[3] == m(1, 3));
  CHECK(syncbn::view(v.tail(2))[1] == 6);
}

TEST_CASE("maps and blocks may be temporaries, also as outputs", "[eigen]") {
  const Eigen::MatrixXf x = Eigen::MatrixXf::Random(6, 4);
  std::vector<float> memory(24);
  Eigen::MatrixXf plain(6, 4);
  Eigen::MatrixXf large = Eigen::MatrixXf::Constant(8, 9, -1);
  syncbn::BatchNorm1d<> bn(4);
  syncbn::BatchNorm1d<>::Saved saved;
  bn.forward(x, plain, saved);
  bn.forward(x, Eigen::Map<Eigen::MatrixXf>(memory.data(), 6, 4), saved);
  bn.forward(x, large.block(1, 2, 6, 4), saved);
  CHECK(Eigen::Map<Eigen::MatrixXf>(memory.data(), 6, 4) == plain);
  CHECK(large.block(1, 2, 6, 4) == plain);
  large.block(1, 2, 6, 4).setConstant(-1);
  CHECK(large == Eigen::MatrixXf::Constant(8, 9, -1));
  bn.forward(Eigen::Map<const Eigen::MatrixXf>(x.data(), 6, 4), plain, saved);
  CHECK(Eigen::Map<Eigen::MatrixXf>(memory.data(), 6, 4) == plain);
}
