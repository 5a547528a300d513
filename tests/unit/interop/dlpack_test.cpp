#include <syncbn/interop/dlpack.hpp>

#include <cstdint>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include <syncbn/backends/cpu_backend.hpp>
#include <syncbn/batch_norm.hpp>
#include <syncbn/check.hpp>
#include <syncbn/interop/eigen.hpp>

#include "support/catch.hpp"

using Catch::Matchers::Contains;
using syncbn::Index;

namespace {

constexpr DLDataType f16{kDLFloat, 16, 1}, bf16{kDLBfloat, 16, 1}, f32{kDLFloat, 32, 1}, f64{kDLFloat, 64, 1};

// What another library hands out: its elements, and how often they were given back.
template <class Managed>
struct Given {
  std::vector<double> memory = std::vector<double>(64);
  std::vector<std::int64_t> extents{2, 3, 4}, strides{12, 4, 1};
  int given_back = 0;
  Managed managed{};

  explicit Given(DLDataType type) {
    managed.dl_tensor = {memory.data(), {kDLCPU, 0}, 3, type, extents.data(), strides.data(), 0};
    managed.manager_ctx = this;
    managed.deleter = [](Managed* m) { ++static_cast<Given*>(m->manager_ctx)->given_back; };
  }
  Given(const Given&) = delete;
  Given& operator=(const Given&) = delete;
  ~Given() = default;

  DLTensor& tensor() { return managed.dl_tensor; }
};
using Lent = Given<DLManagedTensor>;

}  // namespace

TEST_CASE("a DLPack tensor is seen where it is", "[dlpack]") {
  Lent lent(f32);
  const auto v = syncbn::dlpack_view<float>(lent.tensor());
  CHECK(static_cast<void*>(v.data()) == lent.memory.data());
  CHECK(v.rank() == 3);
  CHECK(v.extent(1) == 3);
  CHECK(v.stride(0) == 12);

  lent.tensor().byte_offset = 8;
  CHECK(syncbn::dlpack_view<const float>(lent.tensor()).data() == v.data() + 2);
  lent.tensor().strides = nullptr;  // row-major without gaps
  lent.extents = {2, 5, 6};
  lent.tensor().shape = lent.extents.data();
  CHECK(syncbn::dlpack_view<float>(lent.tensor()).stride(0) == 30);

  lent.tensor().data = nullptr;  // as some libraries do where there are no elements
  lent.extents[0] = 0;
  CHECK(syncbn::dlpack_view<float>(lent.tensor()).size() == 0);
}

TEST_CASE("format, device, alignment and shape of a DLPack tensor are checked", "[dlpack]") {
  Lent lent(f64);
  CHECK_THROWS_WITH(syncbn::dlpack_view<float>(lent.tensor()), "expected a DLPack tensor of Float but got Double");
  lent.tensor().dtype = {kDLInt, 32, 1};
  CHECK_THROWS_WITH(syncbn::dlpack_view<float>(lent.tensor()),
                    "expected a DLPack tensor of Float but got code 0, 32 bits, 1 lanes");
  CHECK_THROWS_AS(syncbn::visit_dlpack(lent.tensor(), [](auto) {}), syncbn::Error);
  lent.tensor().dtype = {kDLFloat, 32, 4};
  CHECK_THROWS_AS(syncbn::dlpack_view<float>(lent.tensor()), syncbn::Error);

  lent.tensor().dtype = f32;
  lent.tensor().device = {kDLCUDA, 1};
  CHECK_THROWS_WITH(syncbn::dlpack_view<float>(lent.tensor()),
                    "a DLPack tensor on device type 2 where one on device type 1 is expected");
  CHECK(syncbn::dlpack_view<float, syncbn::CudaSpace>(lent.tensor()).size() == 24);
  lent.tensor().device = {kDLCUDAManaged, 0};
  CHECK(syncbn::dlpack_view<float, syncbn::CudaSpace>(lent.tensor()).size() == 24);
  lent.tensor().device = {kDLCUDAHost, 0};
  CHECK(syncbn::dlpack_view<float>(lent.tensor()).size() == 24);
  CHECK_THROWS_AS((syncbn::dlpack_view<float, syncbn::CudaSpace>(lent.tensor())), syncbn::Error);

  void* const data = std::exchange(lent.tensor().data, nullptr);
  CHECK_THROWS_WITH(syncbn::dlpack_view<float>(lent.tensor()), "a DLPack tensor without memory");
  const std::int64_t samples = std::exchange(lent.tensor().shape[0], 0);
  CHECK(syncbn::dlpack_view<float>(lent.tensor()).size() == 0);
  lent.tensor().shape[0] = samples;
  lent.tensor().data = data;

  lent.tensor().byte_offset = 2;
  CHECK_THROWS_WITH(syncbn::dlpack_view<float>(lent.tensor()), Contains("aligned"));
  lent.tensor().byte_offset = 0;
  lent.tensor().ndim = -1;
  CHECK_THROWS_AS(syncbn::dlpack_view<float>(lent.tensor()), syncbn::ShapeError);
  std::vector<std::int64_t> many(9, 1);
  lent.tensor().ndim = 9;
  lent.tensor().shape = lent.tensor().strides = many.data();
  CHECK_THROWS_AS(syncbn::dlpack_view<float>(lent.tensor()), syncbn::ShapeError);
}

TEST_CASE("a DLPack tensor is visited by its format", "[dlpack]") {
  const auto name = [](DLDataType type) {
    Lent lent(type);
    return std::string(syncbn::visit_dlpack(lent.tensor(), [](auto v) {
      return syncbn::name(syncbn::scalar_kind<typename decltype(v)::value_type>::value);
    }));
  };
  CHECK(name(f16) == "Half");
  CHECK(name(bf16) == "BFloat16");
  CHECK(name(f32) == "Float");
  CHECK(name(f64) == "Double");
  Lent lent(f16);
  CHECK(syncbn::dlpack_view<Eigen::half>(lent.tensor()).size() == 24);
}

TEST_CASE("a DLPack tensor that was taken is given back once", "[dlpack]") {
  STATIC_REQUIRE(syncbn::check_tensor<syncbn::DlpackTensor<float>>());
  STATIC_REQUIRE(syncbn::check_tensor<syncbn::DlpackTensor<const double>>());
  Lent lent(f32);
  {
    const syncbn::DlpackTensor<float> x(&lent.managed);
    const auto copy = x;
    CHECK(syncbn::view(copy).data() == x.view().data());
    CHECK(lent.given_back == 0);
  }
  CHECK(lent.given_back == 1);
  CHECK_THROWS_AS(syncbn::DlpackTensor<double>(&lent.managed), syncbn::Error);
  CHECK(lent.given_back == 2);
  lent.managed.deleter = nullptr;  // nothing to be done
  syncbn::DlpackTensor<float>{&lent.managed};
  CHECK(lent.given_back == 2);
}

TEST_CASE("tensors are handed out with what owns them", "[dlpack]") {
  using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic>;  // columns
  Matrix m = Matrix::Random(3, 5);
  const double last = m(2, 4);
  const double* const elements = m.data();
  DLManagedTensor* const given = syncbn::to_dlpack(std::move(m), 0);
  CHECK(given->dl_tensor.data == elements);
  CHECK(given->dl_tensor.strides[0] == 1);
  CHECK(given->dl_tensor.strides[1] == 3);
  CHECK(given->dl_tensor.dtype.bits == 64);
  CHECK(given->dl_tensor.device.device_type == kDLCPU);
  const syncbn::DlpackTensor<const double> back(given);
  CHECK(back.view()(2, 4) == last);

  // A view, whose owner lives elsewhere.
  std::vector<syncbn::BFloat16> memory(6);
  const syncbn::TensorView<syncbn::BFloat16> v(memory.data(), {2, 3});
  const syncbn::DlpackTensor<syncbn::BFloat16> same(syncbn::to_dlpack(v));
  CHECK(same.view().data() == memory.data());
}

TEST_CASE("a layer on DLPack tensors", "[dlpack]") {
  Lent x(f32), y(f32);
  float* const values = syncbn::dlpack_view<float>(x.tensor()).data();
  std::iota(values, values + 24, 0.0F);
  std::vector<float> expected(24);
  syncbn::BatchNorm<1> bn(3), same(3);
  decltype(bn)::Saved saved;
  bn.forward(syncbn::DlpackTensor<const float>(&x.managed), syncbn::DlpackTensor<float>(&y.managed), saved);
  same.forward(syncbn::TensorView<float>(values, {2, 3, 4}), syncbn::TensorView<float>(expected.data(), {2, 3, 4}),
               saved);
  const float* const result = syncbn::dlpack_view<float>(y.tensor()).data();
  CHECK(std::vector<float>(result, result + 24) == expected);
  CHECK(x.given_back == 1);
}

#if defined(DLPACK_MAJOR_VERSION) && DLPACK_MAJOR_VERSION >= 1
TEST_CASE("versioned DLPack tensors", "[dlpack]") {
  Given<DLManagedTensorVersioned> lent(f32);
  lent.managed.version = {DLPACK_MAJOR_VERSION, 0};
  CHECK(syncbn::DlpackTensor<float>(&lent.managed).view().size() == 24);
  CHECK(lent.given_back == 1);
  lent.managed.flags = DLPACK_FLAG_BITMASK_READ_ONLY;
  CHECK(syncbn::DlpackTensor<const float>(&lent.managed).view().size() == 24);
  CHECK_THROWS_WITH(syncbn::DlpackTensor<float>(&lent.managed), Contains("must not be written"));
  CHECK(lent.given_back == 3);
  // Nothing of another major version may be looked at but its deleter.
  lent.managed.version.major = DLPACK_MAJOR_VERSION + 1;
  lent.managed.dl_tensor.ndim = 1000;
  CHECK_THROWS_WITH(syncbn::DlpackTensor<const float>(&lent.managed), Contains("version"));
  CHECK(lent.given_back == 4);

  std::vector<float> memory(6);
  DLManagedTensorVersioned* const read_only =
      syncbn::to_dlpack_versioned(syncbn::TensorView<const float>(memory.data(), {2, 3}));
  CHECK(read_only->version.major == DLPACK_MAJOR_VERSION);
  CHECK(read_only->flags == DLPACK_FLAG_BITMASK_READ_ONLY);
  CHECK_THROWS_AS(syncbn::DlpackTensor<float>(read_only), syncbn::Error);
  DLManagedTensorVersioned* const writable = syncbn::to_dlpack_versioned(syncbn::TensorView<float>(memory.data(), {6}));
  CHECK(writable->flags == 0);
  CHECK(syncbn::DlpackTensor<float>(writable).view().data() == memory.data());
}
#endif
