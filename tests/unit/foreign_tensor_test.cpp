#include "support/foreign_tensor.hpp"

#include <bit>
#include <concepts>
#include <cstdint>
#include <random>
#include <type_traits>
#include <vector>

#include <syncbn/check.hpp>
#include <syncbn/syncbn.hpp>

#include "support/activations.hpp"
#include "support/catch.hpp"
#include "support/thrown_by.hpp"

// The layer on types of another namespace: the extension point as a user meets it.

namespace {

using syncbn::Float16;
using syncbn::Index;
using syncbn::TensorView;

template <class Element>
using Ours = std::conditional_t<std::same_as<Element, acme::Half>, Float16, Element>;

acme::Half theirs(Float16 value) { return acme::Half::from_bits(value.bits); }
float theirs(float value) { return value; }
double theirs(double value) { return value; }
std::uint64_t bits(acme::Half value) { return value.to_bits(); }
std::uint64_t bits(Float16 value) { return value.bits; }
std::uint64_t bits(float value) { return std::bit_cast<std::uint32_t>(value); }
std::uint64_t bits(double value) { return std::bit_cast<std::uint64_t>(value); }

// The same numbers twice: as their images and as our tensor, (N, C, H, W) without gaps.
template <class Element>
struct Both {
  static constexpr Index n = 3, c = 11, h = 5, w = 7;
  acme::ImageBatch<Element> images{n, h, w, c};
  std::vector<Ours<Element>> memory = std::vector<Ours<Element>>(static_cast<std::size_t>(n * c * h * w));

  explicit Both(std::uint32_t seed) {
    std::mt19937 random(seed);
    const auto tensor = view();
    for_each([&](Index i, Index j, Index k, Index l) {
      const double value = static_cast<double>(random()) * 0x1p-30 + static_cast<double>(j);
      tensor(i, j, k, l) = syncbn_test::element<Ours<Element>>(value);
      images.at(i, j, k, l) = theirs(tensor(i, j, k, l));
    });
  }
  TensorView<Ours<Element>> view() { return {memory.data(), {n, c, h, w}}; }
  bool equal() {
    bool result = true;
    const auto tensor = view();
    for_each([&](Index i, Index j, Index k, Index l) {
      result = result && bits(images.at(i, j, k, l)) == bits(tensor(i, j, k, l));
    });
    return result;
  }
  // Elements between the rows are nobody's.
  bool padding_untouched() {
    for (Index row = 0; row < n * h; ++row) {
      for (Index i = w * c; i < images.row; ++i) {
        if (bits(images.elements[static_cast<std::size_t>(row * images.row + i)]) != 0) return false;
      }
    }
    return true;
  }
  template <class Visit>
  static void for_each(const Visit& visit) {
    for (Index i = 0; i < n; ++i) {
      for (Index j = 0; j < c; ++j) {
        for (Index k = 0; k < h; ++k) {
          for (Index l = 0; l < w; ++l) visit(i, j, k, l);
        }
      }
    }
  }
};

}  // namespace

TEST_CASE("foreign types meet the requirements", "[foreign]") {
  STATIC_REQUIRE(syncbn::check_tensor<acme::ImageBatch<acme::Half>>());
  STATIC_REQUIRE(syncbn::check_tensor<const acme::ImageBatch<float>>());
  STATIC_REQUIRE(syncbn::writable_tensor<acme::ImageBatch<acme::Half>>);
  STATIC_REQUIRE_FALSE(syncbn::writable_tensor<const acme::ImageBatch<acme::Half>>);
  STATIC_REQUIRE(syncbn::readable_by<const acme::ImageBatch<acme::Half>, syncbn::CpuBackend<float>>);
  STATIC_REQUIRE_FALSE(syncbn::readable_by<const acme::ImageBatch<double>, syncbn::CpuBackend<float>>);
  STATIC_REQUIRE(syncbn::same_format_as<acme::ImageBatch<acme::Half>, TensorView<Float16>>);
}

TEMPLATE_TEST_CASE("a layer on foreign tensors does what it does on views", "[foreign]", acme::Half, float, double) {
  using Backend = syncbn::CpuBackend<std::conditional_t<std::same_as<TestType, double>, double, float>>;
  using Layer = syncbn::BatchNorm2d<Backend>;
  Both<TestType> x(1), y(2), dy(3), dx(4);
  Layer theirs_bn(11), ours_bn(11);
  const auto& const_images = x.images;

  const auto saved = theirs_bn.forward(const_images, y.images);
  const auto ours_saved = ours_bn.forward(x.view(), y.view());
  CHECK(y.equal());
  theirs_bn.backward(dy.images, const_images, saved, dx.images);
  ours_bn.backward(dy.view(), x.view(), ours_saved, dx.view());
  CHECK(dx.equal());
  CHECK((y.padding_untouched() && dx.padding_untouched()));
  for (Index c = 0; c < 11; ++c) {
    CHECK(theirs_bn.weight_grad()[c] == ours_bn.weight_grad()[c]);
    CHECK(theirs_bn.bias_grad()[c] == ours_bn.bias_grad()[c]);
    CHECK(theirs_bn.running_mean()[c] == ours_bn.running_mean()[c]);
    CHECK(theirs_bn.running_var()[c] == ours_bn.running_var()[c]);
  }

  theirs_bn.backward(dy.images, const_images, saved, syncbn::no_gradient);
  theirs_bn.infer(const_images, y.images);
  ours_bn.infer(x.view(), y.view());
  CHECK(y.equal());

  theirs_bn.eval();
  ours_bn.eval();
  const auto eval_saved = theirs_bn.forward(x.images, x.images);  // in place
  const auto ours_eval_saved = ours_bn.forward(x.view(), x.view());
  theirs_bn.backward(dy.images, x.images, eval_saved, dy.images);
  ours_bn.backward(dy.view(), x.view(), ours_eval_saved, dy.view());
  CHECK(x.equal());
  CHECK(dy.equal());
  CHECK((x.padding_untouched() && dy.padding_untouched()));
}

TEST_CASE("foreign tensors and views mix", "[foreign]") {
  Both<acme::Half> x(1), y(2);
  syncbn::BatchNorm2d<> bn(11);
  syncbn::BatchNorm2d<>::Saved saved;
  bn.forward(x.images, y.view(), saved);
  bn.forward(x.view(), y.images, saved);
  CHECK(y.equal());
  const auto free_form = syncbn::batch_norm(x.images, y.images, {}, true);
  CHECK(y.equal());
  CHECK(free_form.extents().size() == 4);
}

TEST_CASE("the functional form and the split form take foreign tensors", "[foreign]") {
  using Backend = syncbn::CpuBackend<float>;
  Both<acme::Half> x(1), y(2), dy(3), dx(4);
  const auto saved = syncbn::batch_norm(x.images, y.images, {}, true);
  syncbn::batch_norm_backward(dy.images, x.images, saved, {}, dx.images);
  const auto ours = syncbn::batch_norm(x.view(), y.view(), {}, true);
  syncbn::batch_norm_backward(dy.view(), x.view(), ours, {}, dx.view());
  CHECK(y.equal());
  CHECK(dx.equal());

  Backend backend;
  syncbn::Moments<Backend> moments(11);
  accumulate(backend, x.images, moments);
  CHECK(*moments.count() == 3 * 5 * 7);
  syncbn::Statistics<Backend> statistics;
  finalize(backend, moments, 1e-5, statistics);
  normalize(backend, x.images, statistics, {}, {}, y.images);
  CHECK(y.equal());
}

TEST_CASE("what is wrong with a foreign tensor is said in its own extents", "[foreign]") {
  acme::ImageBatch<float> x{3, 5, 7, 11}, smaller{3, 5, 6, 11};
  syncbn::BatchNorm2d<> bn(11);
  syncbn::BatchNorm2d<>::Saved saved;
  CHECK(syncbn_test::thrown_by([&] { bn.forward(x, smaller, saved); }) ==
        "ShapeError: y has shape [3, 11, 5, 6], but x has [3, 11, 5, 7]");
}
