#include <cstdint>
#include <random>
#include <vector>

#include <syncbn/backends/detail/cuda_shape.hpp>
#include <syncbn/backends/detail/cuda_walk.cuh>

#include "support/catch.hpp"

using syncbn::Index;
using syncbn::TensorView;
namespace cuda = syncbn::cuda;

namespace {

alignas(64) float memory[4096];

}  // namespace

TEST_CASE("divider: quotients are exact up to 2^63") {
  std::mt19937_64 random(1);
  std::vector<Index> divisors{1, 2, 3, 5, 7, 49, 64, 3136, 0x7fffffff, Index{1} << 40, INT64_MAX};
  for (int i = 0; i < 100; ++i) divisors.push_back(static_cast<Index>(random() >> (1 + random() % 62)) + 1);
  int wrong = 0;
  for (const Index d : divisors) {
    const cuda::Divider by(d);
    const auto check = [&](Index n) { wrong += cuda::divide(n, by) != n / d ? 1 : 0; };
    for (const Index n : {Index{0}, Index{1}, d - 1, d, INT64_MAX - 1, INT64_MAX}) check(n);
    for (Index k = 1; k < 100; ++k) {
      if (d > INT64_MAX / (k + 1)) break;
      check(k * d - 1);
      check(k * d);
    }
    for (int i = 0; i < 1000; ++i) check(static_cast<Index>(random() >> (1 + random() % 62)));
  }
  CHECK(wrong == 0);
}

TEST_CASE("field: NCHW without gaps has rows of images, as words") {
  const TensorView<const float> x(memory, {4, 8, 2, 8});
  const auto field = cuda::field_of(4, x);
  CHECK_FALSE(field.is_columns);
  CHECK(field.run == 16);
  CHECK(field.lines == 4);
  CHECK(field.dims == 1);
  CHECK(field.has_words[0]);
  CHECK_FALSE(field.shifts);
  CHECK(field.units_of_line == 4);
}

TEST_CASE("field: lines that begin anywhere are cut at boundaries of words") {
  const TensorView<const float> odd(memory, {4, 8, 7, 7});
  const auto field = cuda::field_of(4, odd);
  CHECK(field.has_words[0]);
  CHECK(field.shifts);
  CHECK(field.beyond == 0);
  CHECK(field.units_of_line == 13);
  const TensorView<const float> beyond(memory + 3, {4, 8, 2, 8});
  const auto other = cuda::field_of(4, beyond);
  CHECK(other.has_words[0]);
  CHECK(other.shifts);
  CHECK(other.beyond == 3);
}

TEST_CASE("field: an operand that is cut elsewhere is no words") {
  const TensorView<const float> x(memory, {4, 8, 16});
  const TensorView<float> y(memory + 1, {4, 8, 16});
  const auto field = cuda::field_of(4, x, y);
  CHECK(field.has_words[0]);
  CHECK_FALSE(field.has_words[1]);
  const TensorView<float> padded(memory, {4, 8, 16}, {8 * 17, 17, 1});
  CHECK_FALSE(cuda::field_of(4, x, padded).has_words[1]);
  const TensorView<float> alike(memory, {4, 8, 16}, {8 * 20, 20, 1});
  CHECK(cuda::field_of(4, x, alike).has_words[1]);
}

TEST_CASE("field: strides without neighbours, and lines in several dimensions, have units of one element") {
  const TensorView<const float> backwards(memory + 511, {4, 8, 16}, {128, 16, -1});
  const auto field = cuda::field_of(4, backwards, TensorView<float>(memory, {4, 8, 16}));
  CHECK(field.width == 1);
  CHECK(field.is_columns);
  CHECK_FALSE(field.channels_are_near);
  CHECK_FALSE(field.has_words[1]);
  const TensorView<const float> padded(memory, {4, 8, 3, 5}, {8 * 4 * 6, 4 * 6, 6, 1});
  const auto deep = cuda::field_of(4, padded);
  CHECK(deep.width == 1);
  CHECK(deep.dims == 2);
  CHECK(cuda::field_of(4, TensorView<const float>(memory, {1, 8, 3, 5}, {0, 4 * 6, 6, 1})).width == 4);
}

TEST_CASE("field: channels that are neighbours are columns") {
  const auto nhwc = TensorView<const float>::channels_last(memory, {2, 8, 3, 3});
  const auto field = cuda::field_of(4, nhwc);
  CHECK(field.is_columns);
  CHECK(field.width == 4);
  CHECK(field.run == 18);
  CHECK(field.lines == 1);
  CHECK(field.units_of_line == 18);
  CHECK(cuda::field_of(4, TensorView<const float>(memory, {16, 8})).is_columns);
  CHECK(cuda::field_of(4, TensorView<const float>::channels_last(memory, {2, 7, 3, 3})).width == 1);
  CHECK(cuda::field_of(4, TensorView<const float>::channels_last(memory + 1, {2, 8, 3, 3})).width == 1);
}

TEST_CASE("field: nothing at all can be asked for") {
  for (const auto& extents : {std::vector<Index>{0, 3}, {2, 0}, {2, 3, 0}, {0, 0, 0}}) {
    const TensorView<const float> x(memory, extents);
    const auto field = cuda::field_of(4, x);
    CHECK(field.elements * field.channels == 0);
    CHECK(field.units_of_line >= 1);
    CHECK(field.units() * field.channels == 0);
  }
}

TEST_CASE("shape: parts cover a slab, few enough to be merged") {
  const cuda::Device device{132, std::size_t{227} << 10, std::size_t{50} << 20};
  float* const far = memory;  // never read
  const std::vector<std::vector<Index>> all{{128, 4, 224, 224}, {64, 256, 56, 56}, {1, 1, 1 << 30}, {1 << 20, 64},
                                            {3, 2048, 7, 7},    {1 << 28, 3},      {2, 1 << 20, 2}};
  for (const auto& extents : all) {
    auto field = cuda::field_of(4, TensorView<const float>(far, extents));
    const cuda::Shape shape = cuda::shape_of_sums(field, 4, device);
    INFO(extents[0] << " x " << extents[1]);
    CHECK(shape.parts * shape.units_of_part >= field.units());
    CHECK((shape.parts - 1) * shape.units_of_part < field.units());
    CHECK(shape.parts <= 64 * (shape.threads / shape.channels_of_slab()));
    CHECK(shape.slabs * shape.channels_of_slab() >= field.channels);
    CHECK(shape.threads >= shape.channels_of_slab());
    // Enough to fill the device, where there is enough to do.
    if (field.units() * shape.slabs > 132 * 8 * 256 * 8) CHECK(shape.slabs * shape.parts >= 132);
  }
}
