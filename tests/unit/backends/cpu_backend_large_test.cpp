// Tensors so large that results are written past the caches, and channels so many that one walk does all steps of a
// channel: the bits are those of the steps one by one, in place, through the caches.

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include <syncbn/backends/cpu_backend.hpp>
#include <syncbn/interop/eigen.hpp>
#include <syncbn/passes.hpp>

#include "support/catch.hpp"
#include "support/parallel_loop.hpp"

// Sixteen bits of a library that knows no alignment.
struct Bytes {
  unsigned char byte[2];
};
template <>
struct syncbn::scalar_kind<Bytes> {
  static constexpr ScalarKind value = ScalarKind::f16;
};

namespace {

using syncbn::Index;
using syncbn::TensorView;

struct Shape {
  const char* text;
  std::vector<Index> extents;
  bool channels_last;
  bool in_16_bits = false;  // too
};

// More than 16 MB of floats, and doubles; runs of all kinds.
const std::vector<Shape> shapes{{"short runs", {128, 700, 7, 7}, false, true},
                                {"short runs of whole lines", {61, 1100, 8, 8}, false},
                                {"runs of an odd length", {30, 200, 27, 27}, false},
                                {"long runs of an odd length", {29, 40, 61, 61}, false, true},
                                {"long runs of whole lines", {13, 80, 64, 64}, false},
                                {"few channels", {32, 3, 211, 211}, false},
                                {"one channel", {12, 1, 600, 601}, false},
                                {"one sample", {1, 19, 500, 460}, false},
                                {"no spatial dimensions", {19000, 230}, false},
                                {"channels last, few", {36, 3, 200, 200}, true, true},
                                {"channels last, of whole lines", {37, 64, 45, 41}, true},
                                {"channels last, odd", {35, 73, 41, 41}, true, true},
                                {"channels last, many", {12, 1033, 19, 19}, true}};

// A tensor that begins one element after an aligned address, between two guards.
template <class T>
class Tensor {
 public:
  Tensor(const Shape& shape, std::uint32_t seed) : shape_(shape) {
    Index size = 1;
    for (const Index e : shape.extents) size *= e;
    values_.resize(static_cast<std::size_t>(size) + 2);
    std::uint32_t state = seed;
    for (T& v : values_) {
      state = state * 1664525U + 1013904223U;
      v = static_cast<T>(static_cast<double>(state >> 8U) / (1U << 22U));
    }
    values_.front() = values_.back() = guard;
  }
  TensorView<T> view() {
    T* const data = values_.data() + 1;
    if (!shape_.channels_last) return TensorView<T>(data, std::span<const Index>(shape_.extents));
    const auto& e = shape_.extents;
    return TensorView<T>::channels_last(data, {e[0], e[1], e[2], e[3]});
  }
  bool operator==(const Tensor& other) const { return values_ == other.values_; }
  bool guarded() const { return values_.front() == guard && values_.back() == guard; }

 private:
  inline static const T guard = static_cast<T>(-12345.0);
  Shape shape_;
  std::vector<T> values_;
};

template <class T>
void copy(const TensorView<T>& from, const TensorView<T>& to) {
  for (Index n = 0; n < from.extent(0); ++n) {
    for (Index h = 0; h < from.extent(2); ++h) {
      for (Index w = 0; w < from.extent(3); ++w) {
        for (Index c = 0; c < from.extent(1); ++c) to(n, c, h, w) = from(n, c, h, w);
      }
    }
  }
}

}  // namespace

TEST_CASE("passes by channels are for tensors none of which has its channels as neighbours", "[cpu_backend]") {
  const syncbn::CpuBackend<> backend;
  std::vector<float> memory(8 * 16 * 5 * 5);
  const TensorView<float> first(memory.data(), {8, 16, 5, 5});
  const auto last = TensorView<float>::channels_last(memory.data(), {8, 16, 5, 5});
  CHECK(backend.works_by_channels(first, first));
  CHECK(backend.works_by_channels(first, first, first));
  CHECK_FALSE(backend.works_by_channels(last, last));
  CHECK_FALSE(backend.works_by_channels(last, first));
  CHECK_FALSE(backend.works_by_channels(first, last));
  CHECK_FALSE(backend.works_by_channels(first, last, first));
  // Every other channel, and channels from the last to the first.
  const TensorView<float> others(memory.data(), {8, 8, 5, 5}, {16 * 25, 2, 16 * 5, 16});
  const TensorView<float> backwards(memory.data() + 15, {8, 16, 5, 5}, {16 * 25, -1, 16 * 5, 16});
  CHECK_FALSE(backend.works_by_channels(others, others));
  CHECK_FALSE(backend.works_by_channels(backwards, backwards));
  const TensorView<float> same(memory.data(), {8, 16, 5, 5}, {25, 0, 5, 1});  // all channels are one
  CHECK(backend.works_by_channels(same, first));
  CHECK_FALSE(backend.works_by_channels(first.slice(0, 0, 0), first.slice(0, 0, 0)));
  // Many elements of too few channels.
  const TensorView<float> few(memory.data(), {1, 3, 1, 1066});
  CHECK(backend.works_by_channels(few, few));  // of one segment
  std::vector<float> more(3 * 5000);
  const TensorView<float> fewer(more.data(), {1, 3, 5000});
  CHECK_FALSE(backend.works_by_channels(fewer, fewer));
}

TEST_CASE("a large output of a foreign type may lie at any address", "[cpu_backend]") {
  const std::vector<Index> extents{37, 64, 30, 31};  // more than 4 MB
  const Index size = 37 * 64 * 30 * 31;
  std::vector<Bytes> memory_of_x(static_cast<std::size_t>(size)), expected(memory_of_x.size());
  for (std::size_t i = 0; i < memory_of_x.size(); ++i) {
    memory_of_x[i] = {{static_cast<unsigned char>(i % 251), static_cast<unsigned char>(0x3f + i % 3)}};
  }
  std::vector<unsigned char> bytes(2 * memory_of_x.size() + 64, 0xee);
  Bytes* const odd = static_cast<Bytes*>(static_cast<void*>(bytes.data() + 31));
  const auto coefficients = [](Index c) {
    return syncbn::NormalizeCoefficients<float>{static_cast<float>(c), 0.5F, 1.0F};
  };
  const syncbn::CpuBackend<> backend;
  for (const bool channels_last : {false, true}) {
    const auto view = [&](auto* data) {
      using View = TensorView<std::remove_pointer_t<decltype(data)>>;
      return channels_last ? View::channels_last(data, {37, 64, 30, 31}) : View(data, std::span<const Index>(extents));
    };
    backend.normalize(view(std::as_const(memory_of_x).data()), coefficients, view(expected.data()));
    backend.normalize(view(std::as_const(memory_of_x).data()), coefficients, view(odd));
    CHECK(std::memcmp(odd, expected.data(), 2 * expected.size()) == 0);
    CHECK(bytes[30] == 0xee);
    CHECK(bytes[31 + 2 * expected.size()] == 0xee);
  }
}

TEMPLATE_TEST_CASE("large tensors have the same bits by one walk or by steps, in place or not", "[cpu_backend]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using Parameter = std::conditional_t<std::is_same_v<TestType, double>, double, float>;
  using Backend = syncbn::CpuBackend<Parameter, syncbn::ParallelFor<syncbn_test::ParallelLoop>>;
  for (const Shape& shape : shapes) {
    if (sizeof(TestType) == 2 && !shape.in_16_bits) continue;
    INFO(shape.text);
    Backend backend{syncbn::ParallelFor(syncbn_test::ParallelLoop{2})};
    const Tensor<TestType> x(shape, 1), dy(shape, 2);
    const Index channels = shape.extents[1];
    std::vector<Parameter> weight(static_cast<std::size_t>(channels)), bias(weight.size());
    for (std::size_t c = 0; c < weight.size(); ++c) {
      weight[c] = static_cast<Parameter>(1 + c % 3);
      bias[c] = static_cast<Parameter>(c % 5) / 4;
    }
    const TensorView<const Parameter> w(weight.data(), {channels}), b(bias.data(), {channels});

    // Step by step, in place.
    Tensor<TestType> y = x, dx = dy, input = x, gradient = dy;
    syncbn::Moments<Backend> moments(channels);
    syncbn::Statistics<Backend> statistics;
    accumulate(backend, input.view(), moments);
    finalize(backend, moments, 1e-5, statistics);
    normalize(backend, y.view(), statistics, w, b, y.view());
    syncbn::GradientSums<Backend> sums(channels);
    syncbn::GradientCoefficients<Backend> coefficients;
    accumulate(backend, gradient.view(), input.view(), statistics, sums);
    finalize(backend, sums, statistics, coefficients);
    propagate(backend, dx.view(), input.view(), statistics, coefficients, w, dx.view());

    // The same, to other memory.
    Tensor<TestType> other(shape, 3);
    normalize(backend, input.view(), statistics, w, b, other.view());
    CHECK(other == y);
    CHECK(other.guarded());
    propagate(backend, gradient.view(), input.view(), statistics, coefficients, w, other.view());
    CHECK(other == dx);
    CHECK(other.guarded());

    // In the other layout.
    if (shape.extents.size() == 4) {
      Shape turned = shape;
      turned.channels_last = !shape.channels_last;
      Tensor<TestType> x_turned(turned, 6), dy_turned(turned, 7);
      copy(input.view(), x_turned.view());
      copy(gradient.view(), dy_turned.view());
      syncbn::Moments<Backend> moments_turned(channels);
      syncbn::GradientSums<Backend> sums_turned(channels);
      accumulate(backend, x_turned.view(), moments_turned);
      accumulate(backend, dy_turned.view(), x_turned.view(), statistics, sums_turned);
      CHECK(std::equal(moments.mean(), moments.mean() + 2 * channels, moments_turned.mean()));
      CHECK(std::equal(sums.dy(), sums.dy() + 2 * channels, sums_turned.dy()));
    }

    // By one walk, to other memory and in place.
    for (const bool in_place : {false, true}) {
      INFO("in place: " << in_place);
      Tensor<TestType> alone = in_place ? x : Tensor<TestType>(shape, 4);
      syncbn::Moments<Backend> own_moments;
      syncbn::Statistics<Backend> own_statistics;
      normalize_alone(backend, in_place ? alone.view() : input.view(), 1e-5, own_moments, own_statistics, w, b,
                      alone.view());
      CHECK(alone == y);
      CHECK(std::equal(own_statistics.mean(), own_statistics.mean() + 3 * channels, statistics.mean()));
      CHECK(*own_statistics.count() == *statistics.count());
      Tensor<TestType> back = in_place ? dy : Tensor<TestType>(shape, 5);
      syncbn::GradientSums<Backend> own_sums;
      propagate_alone(backend, in_place ? back.view() : gradient.view(), input.view(), statistics, own_sums,
                      coefficients, w, back.view());
      CHECK(back == dx);
      CHECK(std::equal(own_sums.dy(), own_sums.dy() + 2 * channels, sums.dy()));
    }
  }
}
