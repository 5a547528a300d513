#include <syncbn/backends/cpu_backend.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <thread>
#include <type_traits>
#include <vector>

#include "support/sixteen_bits.hpp"
#include "unit/backends/cpu_backend_cases.hpp"

// What does not depend on the format of elements; the other tests of the kernels are in cpu_backend_laws.hpp.

namespace cpu_backend_test {
namespace {

using syncbn::BFloat16;
using syncbn::CpuBackend;
using syncbn::Float16;
using syncbn::ScalarKind;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

}  // namespace

TEST_CASE("the formats that the processor's kernels take", "[cpu_backend]") {
  for (const ScalarKind kind : {ScalarKind::f16, ScalarKind::bf16, ScalarKind::f32}) {
    CHECK(CpuBackend<float>::accepts(kind));
    CHECK(CpuBackend<double>::accepts(kind));
  }
  CHECK(CpuBackend<double>::accepts(ScalarKind::f64));
  CHECK_FALSE(CpuBackend<float>::accepts(ScalarKind::f64));
}

TEST_CASE("host memory is the processor's own", "[cpu_backend]") {
  CpuBackend<float> backend;
  const std::vector<double> from{1, 2, 3};
  std::vector<double> to(4, -1);
  backend.download(from.data(), 3, to.data());
  CHECK(to == std::vector<double>{1, 2, 3, -1});
  backend.upload(from.data() + 1, 2, to.data() + 2);
  CHECK(to == std::vector<double>{1, 2, 2, 3});
  backend.download(static_cast<const double*>(nullptr), 0, static_cast<double*>(nullptr));

  std::vector<int> calls(5);
  backend.for_each_channel(4, [&](Index c) { ++calls[static_cast<std::size_t>(c)]; });
  CHECK(calls == std::vector<int>{1, 1, 1, 1, 0});
}

// ---- Difficult data -------------------------------------------------------------------------------------------------

TEMPLATE_TEST_CASE("a block that begins with an outlier", "[cpu_backend]", (Case<float, float>), (Case<float, double>),
                   (Case<double, double>)) {
  using T = typename TestType::Element;
  using P = typename TestType::Parameter;
  for (const double outlier : {1e2, 1e4, 1e8, -1e12}) {
    for (const Index elements : {8, 2048, 2049, 10000, 70000}) {
      auto problem = some_problem<T, P>({1, 2, elements});
      for (std::size_t i = 0; i < problem.x.size(); i += 2048) problem.x[i] = static_cast<T>(outlier);
      for (std::size_t i = static_cast<std::size_t>(elements); i < problem.x.size(); i += 2048) {
        problem.x[i] = static_cast<T>(outlier);
      }
      const Exact<T, P> exact(problem);
      for (const std::size_t placement : {0U, 1U}) {
        const Placement& where = syncbn_test::placements()[placement];
        CAPTURE(outlier, elements, where.name);
        check_against(exact, problem, train_at(problem, where, where));
      }
    }
  }
}

TEMPLATE_TEST_CASE("a constant channel is exact", "[cpu_backend]", (Case<Float16, float>), (Case<BFloat16, double>),
                   (Case<float, float>), (Case<float, double>), (Case<double, double>)) {
  using T = typename TestType::Element;
  using P = typename TestType::Parameter;
  const bool wide = std::is_floating_point_v<T>;
  for (const double constant :
       {0.0, 1.0, 3.0, -0.1, 1e4, wide ? 1e7 : 6e4, wide ? 330000.03 : 1e-5, wide ? 1e-30 : 1e-7}) {
    for (const Index elements : {2, 9, 2048, 2049, 35000}) {
      for (const double eps : {1e-5, 0.0}) {
        auto problem = some_problem<T, P>({1, 8, 1});
        problem.extents = {1, 8, elements};
        problem.eps = eps;
        const T value = syncbn_test::element<T>(constant);
        problem.x.assign(problem.shape().elements(), value);
        problem.dy.assign(problem.shape().elements(), problem.dy.front());
        const Placement& where = syncbn_test::placements()[static_cast<std::size_t>(elements % 2)];
        const auto step = train_at(problem, where, where);
        bool exact = true;
        for (std::size_t c = 0; c < 8; ++c) {
          exact = exact && step.mean[c] == syncbn_test::value_of(value) && step.m2[c] == 0;
          const T bias = syncbn_test::element<T>(problem.bias[c]);
          const auto row = static_cast<std::ptrdiff_t>(elements);
          const auto first = step.y.begin() + static_cast<std::ptrdiff_t>(c) * row;
          exact = exact &&
                  same_bits(std::vector<T>(first, first + row), std::vector<T>(static_cast<std::size_t>(row), bias));
        }
        CAPTURE(constant, elements, eps, where.name);
        CHECK(exact);
      }
    }
  }
}

TEMPLATE_TEST_CASE("what is no number in one channel stays there", "[cpu_backend]", (Case<float, float>),
                   (Case<Float16, float>), (Case<double, double>)) {
  using T = typename TestType::Element;
  using P = typename TestType::Parameter;
  const std::size_t channels = 17;
  for (const Index elements : {5, 2100}) {
    const auto clean = some_problem<T, P>({1, static_cast<Index>(channels), elements});
    const Placement& contiguous = syncbn_test::placements().front();
    const auto want = train_at(clean, contiguous, contiguous);
    for (const double poison : {not_a_number, infinity, -infinity}) {
      for (const std::size_t channel : {3U, 15U, 16U}) {
        // The first of a block, one within, the very last.
        for (const Index at : {Index{0}, elements / 2, elements - 1}) {
          for (const bool in_dy : {false, true}) {
            auto problem = clean;
            auto& tensor = in_dy ? problem.dy : problem.x;
            tensor[channel * static_cast<std::size_t>(elements) + static_cast<std::size_t>(at)] =
                syncbn_test::element<T>(poison);
            for (const std::size_t placement : {0U, 1U, 6U}) {
              const Placement& where = syncbn_test::placements()[placement];
              const auto got = train_at(problem, where, where);
              bool right = true;
              for (std::size_t c = 0; c < channels; ++c) {
                const bool poisoned = c == channel;
                if (poisoned && in_dy) {
                  right = right && got.mean[c] == want.mean[c] && got.m2[c] == want.m2[c] &&
                          !std::isfinite(got.sum_dy[c]) && !std::isfinite(got.bias_grad[c]);
                } else if (poisoned) {
                  right = right && std::isnan(got.m2[c]) && std::isnan(got.sum_dy_centred[c]) &&
                          (std::isnan(poison) ? std::isnan(got.mean[c]) : got.mean[c] == poison);
                } else {
                  right = right && got.mean[c] == want.mean[c] && got.m2[c] == want.m2[c] &&
                          got.sum_dy[c] == want.sum_dy[c] && got.sum_dy_centred[c] == want.sum_dy_centred[c] &&
                          got.weight_grad[c] == want.weight_grad[c] && got.bias_grad[c] == want.bias_grad[c];
                }
                for (std::size_t i = 0; i < static_cast<std::size_t>(elements); ++i) {
                  const std::size_t e = c * static_cast<std::size_t>(elements) + i;
                  const Number y = syncbn_test::value_of(got.y[e]);
                  const Number dx = syncbn_test::value_of(got.dx[e]);
                  right = right && (poisoned && !in_dy ? std::isnan(y) : y == syncbn_test::value_of(want.y[e])) &&
                          (poisoned ? !std::isfinite(dx) : dx == syncbn_test::value_of(want.dx[e]));
                }
              }
              if (!right) {
                CAPTURE(elements, poison, channel, at, in_dy, where.name);
                FAIL("another channel was touched, or this one was not");
              }
            }
          }
        }
      }
    }
  }
  SUCCEED();
}

TEST_CASE("about a mean that is infinite on another rank's account there are no deviations, in any layout",
          "[cpu_backend]") {
  CpuBackend<float> backend;
  const std::vector<double> mean(16, infinity);
  for (const Index elements : {1, 5, 8, 2100}) {
    const std::vector<float> values(static_cast<std::size_t>(16 * elements), 0.5F);
    for (const bool channels_last : {false, true}) {
      CAPTURE(elements, channels_last);
      const syncbn::TensorView<const float> x(values.data(), {1, 16, elements},
                                              {1, channels_last ? 1 : elements, channels_last ? 16 : 1});
      std::vector<double> dy(16), centred(16);
      backend.accumulate(x, x, mean.data(), {dy.data(), centred.data()});
      CHECK(dy == std::vector<double>(16, 0.5 * static_cast<double>(elements)));
      bool all = true;
      for (const double c : centred) all = all && std::isnan(c);
      CHECK(all);
    }
  }
}

TEST_CASE("a dominant mean costs no digits", "[cpu_backend]") {
  // The usual x * scale + (bias - mean * scale) would err by mean / deviation roundings.
  for (const double mean : {1e4, 1e5, 1e6}) {
    auto problem = some_problem<float, float>({64, 1, 1000});
    std::mt19937 random(3);
    for (float& x : problem.x) x = static_cast<float>(mean + uniform(random));
    const Placement& contiguous = syncbn_test::placements().front();
    CAPTURE(mean);
    check_against(Exact<float, float>(problem), problem, train_at(problem, contiguous, contiguous));
  }
}

// ---- 16 bits --------------------------------------------------------------------------------------------------------

namespace {

template <class T, class P>
std::vector<T> mapped(const std::vector<T>& x, const Placement& in, const Placement& out,
                      syncbn::NormalizeCoefficients<P> k) {
  const std::vector<Index> extents{64, 16, 64};
  Placed<T> from(extents, in, x);
  Placed<T> to(extents, out);
  CpuBackend<P>().normalize(from.read_only(), [&](Index) { return k; }, to.view());
  if (!to.canaries_live()) FAIL("written beside the output");
  return to.values();
}

template <class T>
std::vector<T> all_patterns() {
  std::vector<T> result;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) result.push_back({static_cast<std::uint16_t>(bits)});
  return result;
}

}  // namespace

TEMPLATE_TEST_CASE("all 16-bit values pass a kernel unharmed, and results are rounded once", "[cpu_backend]",
                   (Case<Float16, float>), (Case<Float16, double>), (Case<BFloat16, float>), (Case<BFloat16, double>)) {
  using T = typename TestType::Element;
  using P = typename TestType::Parameter;
  const auto& format = std::is_same_v<T, Float16> ? syncbn_test::binary16 : syncbn_test::bfloat16;
  const std::vector<T> x = all_patterns<T>();
  // A scale that puts products half way between two values, and an offset that is too small for a float to see.
  const syncbn::NormalizeCoefficients<P> steps[] = {
      {0, 1, 0},
      {0, static_cast<P>(1 + format.unit_roundoff()), 0},
      {0, static_cast<P>(1 + format.unit_roundoff()), static_cast<P>(0x1p-40)},
  };
  for (const auto& k : steps) {
    std::vector<T> want;
    for (const T& element : x) {
      const long double value = format.value(element.bits);
      // Exact before the sum, which rounds to P once, fused or not: no cancellation of x * scale here.
      const P product = static_cast<P>(value) * k.scale;
      const P sum = static_cast<P>(static_cast<long double>(product) + k.offset);
      want.push_back({format.nearest(sum)});
    }
    for (const Placement& where : syncbn_test::placements()) {
      const auto got = mapped(x, where, where, k);
      bool right = true;
      for (std::size_t i = 0; i < x.size(); ++i) {
        right = right && (got[i].bits == want[i].bits || (format.is_nan(got[i].bits) && format.is_nan(want[i].bits)) ||
                          // 0 + 0 has the sign of the rounding mode, and x * 1 + 0 of -0 is +0.
                          (got[i].bits & 0x7fffU) + (want[i].bits & 0x7fffU) == 0);
      }
      CAPTURE(where.name, k.scale, k.offset);
      CHECK(right);
    }
  }
}

// ---- Copies and threads ---------------------------------------------------------------------------------------------

TEST_CASE("copies of a backend share no working memory", "[cpu_backend]") {
  const auto problem = some_problem<float, float>({5, 33, 500});
  const Placement& where = syncbn_test::placements().front();
  const auto want = train_at(problem, where, where);
  CpuBackend<float> first;
  train_at(problem, where, where, first);
  std::vector<CpuBackend<float>> copies(3, first);
  copies[1] = first;
  std::vector<Step<float, float>> got(copies.size());
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < copies.size(); ++t) {
    threads.emplace_back([&, t] {
      Placed<float> x(problem.extents, where, problem.x);
      Placed<float> dy(problem.extents, where, problem.dy);
      Placed<float> y(problem.extents, where);
      Placed<float> dx(problem.extents, where);
      for (int i = 0; i < 5; ++i) {
        got[t] = train(copies[t], problem, x.read_only(), dy.read_only(), y.view(), dx.view());
      }
      got[t].y = y.values();
      got[t].dx = dx.values();
    });
  }
  for (std::thread& t : threads) t.join();
  for (const auto& step : got) CHECK(same_bits_in_all(step, want));
}

TEST_CASE("a copy keeps the executor", "[cpu_backend]") {
  using Loop = syncbn::ParallelFor<syncbn_test::ParallelLoop>;
  CHECK_FALSE(std::is_default_constructible_v<Loop>);
  const CpuBackend<float, Loop> backend(Loop(syncbn_test::ParallelLoop{2}));
  auto copy = backend;
  const auto problem = some_problem<float, float>({2, 3, 4000});
  const Placement& where = syncbn_test::placements().front();
  CHECK(same_bits_in_all(train_at(problem, where, where), train_at(problem, where, where, copy)));
}

TEST_CASE("the size of the caches changes no bit", "[cpu_backend]") {
  struct Restored {
    std::ptrdiff_t first = Eigen::l1CacheSize(), second = Eigen::l2CacheSize(), third = Eigen::l3CacheSize();
    ~Restored() { Eigen::setCpuCacheSizes(first, second, third); }
  } restored;
  const auto problem = some_problem<float, float>({6, 37, 700});
  const Placement& where = syncbn_test::placements().front();
  const auto expected = train_at(problem, where, where);
  for (const Index bytes : {Index{1}, Index{300} << 10, Index{1} << 40}) {
    Eigen::setCpuCacheSizes(restored.first, bytes, restored.third);
    CAPTURE(bytes, syncbn::cpu::second_cache_bytes());
    CHECK(syncbn::cpu::second_cache_bytes() == std::clamp<Index>(bytes, Index{256} << 10, Index{4} << 20));
    CHECK(same_bits_in_all(train_at(problem, where, where), expected));
  }
}

TEST_CASE("the elementwise passes have tasks for many threads to share", "[cpu_backend]") {
  Index most_tasks = 0;
  const syncbn::ParallelFor counting([&](Index tasks, const auto& task) {
    most_tasks = std::max(most_tasks, tasks);
    syncbn::SerialExecutor().run(tasks, task);
  });
  const CpuBackend<float, std::remove_const_t<decltype(counting)>> backend(counting);
  struct Shape {
    Index samples, channels, space;
    bool channels_last;
  };
  for (const Shape& s : {Shape{16, 64, 64, false}, Shape{64, 3, 10000, false}, Shape{256, 2048, 1, true},
                         Shape{31, 40000, 1, true}, Shape{100000, 3, 1, true}, Shape{2048, 64, 1, true}}) {
    CAPTURE(s.samples, s.channels, s.space, s.channels_last);
    std::vector<float> values(static_cast<std::size_t>(s.samples * s.channels * s.space), 1.0F);
    const TensorView<float> x = s.channels_last ? TensorView<float>(values.data(), {s.samples, s.channels, s.space},
                                                                    {s.channels * s.space, 1, s.channels})
                                                : TensorView<float>(values.data(), {s.samples, s.channels, s.space});
    most_tasks = 0;
    backend.normalize(
        syncbn::TensorView<const float>(x), [](Index) { return syncbn::NormalizeCoefficients<float>{0, 2, 1}; }, x);
    CHECK(most_tasks >= std::min<Index>(16, x.size() * 4 / (Index{64} << 10)));
    CHECK(values == std::vector<float>(values.size(), 3.0F));
  }
}

TEST_CASE("the elementwise passes may run on several threads at once", "[cpu_backend]") {
  const auto problem = some_problem<float, float>({5, 33, 50});
  const CpuBackend<float> backend;
  const auto coefficients = [](Index c) {
    return syncbn::NormalizeCoefficients<float>{static_cast<float>(c), 0.5F, 1.0F};
  };
  std::vector<std::vector<float>> y(4, std::vector<float>(problem.x.size()));
  const auto view_of = [&](auto* data) { return TensorView(data, std::span<const Index>(problem.extents)); };
  std::vector<std::thread> threads;
  for (auto& mine : y) {
    threads.emplace_back([&] { backend.normalize(view_of(problem.x.data()), coefficients, view_of(mine.data())); });
  }
  for (std::thread& t : threads) t.join();
  for (const auto& mine : y) CHECK((mine == y.front()));
}

}  // namespace cpu_backend_test
