#include <syncbn/moments.hpp>

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "support/bounds.hpp"
#include "support/catch.hpp"

namespace {

using syncbn::ChannelMoments;
using syncbn::ChannelSums;
using syncbn::from_centred_sums;
using syncbn::from_sums;
using syncbn::Index;
using syncbn::merge;
using syncbn::needs_centred_sums;
using syncbn::ScalarKind;
using syncbn::to_centred_sums;
using syncbn::to_sums;
using Number = long double;
namespace bounds = syncbn_test::bounds;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

// Doubles are judged in long double, which must be wider.
static_assert(std::numeric_limits<Number>::digits >= 64);

// Moments of values less `origin`: means that are near each other cost no digits then.
struct Exact {
  Number count = 0, mean = 0, m2 = 0;
  Number origin = 0;

  Number s2() const { return m2 + count * (mean + origin) * (mean + origin); }
  Number mean_error(double got) const { return std::abs((got - origin) - mean); }
};

Exact merged(const std::vector<ChannelMoments>& parts) {
  Exact all{0, 0, 0, parts.front().mean};
  for (const ChannelMoments& part : parts) {
    all.count += part.count;
    all.mean += part.count * (part.mean - all.origin);
  }
  all.mean /= all.count;
  for (const ChannelMoments& part : parts) {
    const Number deviation = part.mean - all.origin - all.mean;
    all.m2 += part.m2 + part.count * deviation * deviation;
  }
  return all;
}

class Random {
 public:
  explicit Random(std::uint32_t seed) : engine_(seed) {}
  double between(double low, double high) { return low + (high - low) * (static_cast<double>(engine_()) * 0x1p-32); }
  // Any magnitude between 2^low and 2^high, either sign.
  double magnitude(double low, double high) { return std::exp2(between(low, high)) * (engine_() % 2 == 0 ? 1 : -1); }
  double count() { return std::floor(std::exp2(between(0, 40))); }

 private:
  std::mt19937 engine_;
};

std::vector<ChannelMoments> some_moments(Random& random, int how_many, double mean, double deviation) {
  std::vector<ChannelMoments> result;
  for (int i = 0; i < how_many; ++i) {
    const double count = random.count();
    result.push_back(
        {count, mean + deviation * random.between(-1, 1), count * deviation * deviation * random.between(0, 2)});
  }
  return result;
}

bool same(ChannelMoments a, ChannelMoments b) { return a.count == b.count && a.mean == b.mean && a.m2 == b.m2; }

}  // namespace

// ---- merge ----------------------------------------------------------------------------------------------------------

TEST_CASE("merging with nothing changes nothing", "[moments]") {
  const ChannelMoments m{3, 1.0 / 3, 2.0 / 7};
  CHECK(same(merge(m, {}), m));
  CHECK(same(merge({}, m), m));
  CHECK(same(merge({}, {}), {}));
  // The mean of an empty set means nothing, whatever it is.
  CHECK(same(merge({0, not_a_number, not_a_number}, m), m));
  CHECK(same(merge(m, {0, infinity, infinity}), m));
}

TEST_CASE("an infinite mean stays infinite, however many parts it came in", "[moments]") {
  for (const double infinite : {infinity, -infinity}) {
    const ChannelMoments part{3, infinite, not_a_number};
    const ChannelMoments finite{2, 1, 4};
    for (const ChannelMoments& m : {merge(part, part), merge(part, finite), merge(finite, part)}) {
      CHECK(m.mean == infinite);
      CHECK_FALSE(std::isfinite(m.m2));
    }
  }
  CHECK(std::isnan(merge({1, infinity, 0}, {1, -infinity, 0}).mean));
}

TEST_CASE("merging is exact where its numbers are", "[moments]") {
  // {1, 3} and {5, 7, 9, 11}: means 2 and 8, all six 6; M2 = 2 + 20 + 36 * 2 * 4 / 6.
  CHECK(same(merge({2, 2, 2}, {4, 8, 20}), {6, 6, 70}));
  CHECK(same(merge({4, 8, 20}, {2, 2, 2}), {6, 6, 70}));
  // Equal means, at any magnitude: nothing but counts and M2 changes.
  for (const double mean : {0.0, 1.0, 330000.03, 1e300, -1e-300}) {
    CHECK(same(merge({5, mean, 0}, {7, mean, 0}), {12, mean, 0}));
    CHECK(same(merge({5, mean, 0.5}, {7, mean, 0.25}), {12, mean, 0.75}));
  }
  // Counts beyond 2^31 and up to 2^53.
  CHECK(merge({4503599627370497.0, 1, 0}, {4503599627370494.0, 1, 0}).count == 9007199254740991.0);
}

TEST_CASE("one merge errs by a few roundings", "[moments]") {
  Random random(1);
  for (int i = 0; i < 20000; ++i) {
    const double mean = random.magnitude(-20, 20);
    const auto parts = some_moments(random, 2, mean, random.magnitude(-30, 30));
    const ChannelMoments got = merge(parts[0], parts[1]);
    const Exact want = merged(parts);
    const Number share = (Number{parts[1].mean} - parts[0].mean) * (parts[1].count / want.count);
    const bool holds = got.count == want.count &&
                       want.mean_error(got.mean) <= bounds::merged_mean(share, want.origin + want.mean) &&
                       std::abs(got.m2 - want.m2) <= bounds::merged_m2() * want.m2;
    if (!holds) {
      CAPTURE(i, parts[0].count, parts[0].mean, parts[0].m2, parts[1].count, parts[1].mean, parts[1].m2);
      FAIL("beyond the bound");
    }
  }
  SUCCEED();
}

TEST_CASE("a long chain of merges stays near the truth", "[moments]") {
  Random random(2);
  for (const double mean : {0.0, 1.0, -1e5, 1e8}) {
    const auto parts = some_moments(random, 1000, mean, 1);
    ChannelMoments got;
    const Exact want = merged(parts);
    Number deviation = 0;
    for (const ChannelMoments& part : parts) {
      got = merge(got, part);
      deviation = std::max(deviation, want.mean_error(part.mean));
    }
    // The derivation at bounds::mean() and bounds::m2_of_squares(), for parts that are exact.
    const Number merges = 999;
    const Number mean_error =
        merges * (bounds::gamma(4) * 2 * deviation + bounds::u * (std::abs(want.origin) + 2 * deviation));
    CAPTURE(mean);
    CHECK(got.count == want.count);
    CHECK(want.mean_error(got.mean) <= mean_error);
    CHECK(std::abs(got.m2 - want.m2) <= bounds::gamma(7 * merges) * want.m2 +
                                            4 * mean_error * std::sqrt(want.count * want.m2) +
                                            4 * mean_error * mean_error * want.count);
  }
}

TEST_CASE("M2 is never negative", "[moments]") {
  Random random(3);
  double least = 0;
  for (int i = 0; i < 20000; ++i) {
    const double mean = random.magnitude(-60, 60);
    const auto parts = some_moments(random, 2, mean, random.magnitude(-120, -50));
    const ChannelSums a = to_sums(parts[0]);
    const ChannelSums b = to_sums(parts[1]);
    const double count = parts[0].count + parts[1].count;
    const ChannelMoments first = from_sums(count, {a.s1 + b.s1, a.s2 + b.s2});
    const ChannelSums c = to_centred_sums(parts[0], first.mean);
    const ChannelSums d = to_centred_sums(parts[1], first.mean);
    const ChannelMoments second = from_centred_sums(count, first.mean, {c.s1 + d.s1, c.s2 + d.s2});
    for (const double m2 : {merge(parts[0], parts[1]).m2, first.m2, second.m2}) least = std::min(least, m2);
  }
  CHECK(least == 0);
}

// ---- Sums -----------------------------------------------------------------------------------------------------------

TEST_CASE("sums of nothing are zeros", "[moments]") {
  CHECK(to_sums({}).s1 == 0);
  CHECK(to_sums({}).s2 == 0);
  // Whatever an empty rank has as a mean must not reach the others.
  CHECK(to_centred_sums({0, not_a_number, not_a_number}, 5).s1 == 0);
  CHECK(to_centred_sums({0, 3, 0}, 5).s2 == 0);
}

TEST_CASE("sums there and back are exact for small integers", "[moments]") {
  const ChannelSums sums = to_sums({6, 6, 70});
  CHECK(sums.s1 == 36);
  CHECK(sums.s2 == 286);
  CHECK(same(from_sums(6, sums), {6, 6, 70}));
  const ChannelSums centred = to_centred_sums({6, 6, 70}, 4);
  CHECK(centred.s1 == 12);
  CHECK(centred.s2 == 94);
  CHECK(same(from_centred_sums(6, 4, centred), {6, 6, 70}));
}

TEST_CASE("sums over ranks err by their bound, and centred sums by much less", "[moments]") {
  for (const int ranks : {1, 2, 3, 8, 64}) {
    Random random(static_cast<std::uint32_t>(ranks));
    for (int i = 0; i < 500; ++i) {
      const auto parts = some_moments(random, ranks, random.magnitude(-10, 30), std::exp2(random.between(-30, 10)));
      const Exact want = merged(parts);
      const Number s2 = want.s2();
      const double count = static_cast<double>(want.count);

      ChannelSums sums;
      for (const ChannelMoments& part : parts) {
        const ChannelSums own = to_sums(part);
        sums = {sums.s1 + own.s1, sums.s2 + own.s2};
      }
      const ChannelMoments first = from_sums(count, sums);
      const Number first_mean_error = bounds::mean_by_sums(ranks) * std::sqrt(s2 / want.count);
      bool holds = want.mean_error(first.mean) <= first_mean_error &&
                   std::abs(first.m2 - want.m2) <= bounds::m2_by_sums(ranks) * s2;

      ChannelSums centred;
      for (const ChannelMoments& part : parts) {
        const ChannelSums own = to_centred_sums(part, first.mean);
        centred = {centred.s1 + own.s1, centred.s2 + own.s2};
      }
      const ChannelMoments second = from_centred_sums(count, first.mean, centred);
      const Number t = want.mean_error(first.mean);
      const Number about_first = want.m2 + want.count * t * t;
      const Number second_mean_error = bounds::gamma(ranks + 4) * std::sqrt(about_first / want.count);
      holds = holds && std::abs(second.m2 - want.m2) <= bounds::m2_by_centred_sums(ranks) * about_first &&
              want.mean_error(second.mean) <= second_mean_error + bounds::u * std::abs(want.origin + want.mean);

      // Where no second sum is asked for, the first is as good as promised.
      for (const ScalarKind kind : {ScalarKind::f32, ScalarKind::f64}) {
        const double limit = syncbn::cancellation_limit(kind);
        if (!needs_centred_sums(count, sums, limit)) {
          holds = holds && std::abs(first.m2 - want.m2) <= 2 * limit * bounds::m2_by_sums(ranks) * want.m2;
        }
      }
      if (!holds) {
        CAPTURE(ranks, i, static_cast<double>(want.origin), static_cast<double>(want.m2), first.mean, first.m2,
                second.m2);
        FAIL("beyond the bound");
      }
    }
  }
  SUCCEED();
}

TEST_CASE("which sums ask for a second one", "[moments]") {
  const double limit = syncbn::cancellation_limit(ScalarKind::f32);
  const auto asks = [&](double count, double s1, double s2) { return needs_centred_sums(count, {s1, s2}, limit); };

  CHECK(syncbn::cancellation_limit(ScalarKind::f16) == 0x1p20);
  CHECK(syncbn::cancellation_limit(ScalarKind::bf16) == 0x1p20);
  CHECK(limit == 0x1p20);
  CHECK(syncbn::cancellation_limit(ScalarKind::f64) == 0x1p8);

  SECTION("not data about zero") {
    CHECK_FALSE(asks(4, 0, 8));
    CHECK_FALSE(asks(4, 4, 8));  // mean 1, variance 1
  }
  SECTION("not an empty group, nor zeros") {
    CHECK_FALSE(asks(0, 0, 0));
    CHECK_FALSE(asks(5, 0, 0));
    CHECK_FALSE(asks(5, -0.0, 0));
  }
  SECTION("constants other than zero") {
    for (const double c : {1.0, -3.0, 330000.03, 1e-30, 1e30}) {
      const ChannelSums sums = to_sums({7, c, 0});
      CHECK(asks(7, sums.s1, sums.s2));
    }
  }
  SECTION("squares that underflow: they tell nothing") {
    for (const double c : {1e-155, -1e-160, 1e-162, 1e-170, 1e-300}) {
      const ChannelSums sums = to_sums({7, c, 0});
      CHECK(needs_centred_sums(7, sums, 0x1p8));
    }
  }
  SECTION("exactly beyond the limit") {
    CHECK_FALSE(needs_centred_sums(4, {0, 8}, 1));  // S2 = M2
    CHECK(needs_centred_sums(4, {2, 8}, 1));        // S2 = 8, M2 = 7
    CHECK_FALSE(needs_centred_sums(4, {2, 8}, 8.0 / 7 * (1 + 0x1p-50)));
    CHECK(needs_centred_sums(4, {2, 8}, 8.0 / 7 * (1 - 0x1p-50)));
  }
  SECTION("M2 that cancelled to nothing, or below") {
    CHECK(asks(2, 2e8, 2e16));              // exactly 0
    CHECK(asks(2, 2e8, 2e16 - 4));          // negative
    CHECK(asks(3, 3, 2.9999999999999996));  // rounding alone
  }
  SECTION("not sums that are infinite or no numbers: there is nothing to repair") {
    CHECK_FALSE(asks(4, infinity, infinity));
    CHECK_FALSE(asks(4, -infinity, infinity));
    CHECK_FALSE(asks(4, infinity, not_a_number));
    CHECK_FALSE(asks(4, not_a_number, not_a_number));
    CHECK_FALSE(asks(4, not_a_number, infinity));
  }
}

TEST_CASE("a mean that dwarfs the deviation is repaired by centred sums", "[moments]") {
  const auto over_ranks = [](const std::vector<ChannelMoments>& ranks, ScalarKind kind) {
    ChannelSums sums;
    double count = 0;
    for (const ChannelMoments& rank : ranks) {
      const ChannelSums own = to_sums(rank);
      sums = {sums.s1 + own.s1, sums.s2 + own.s2};
      count += rank.count;
    }
    REQUIRE(needs_centred_sums(count, sums, syncbn::cancellation_limit(kind)));
    const double mean = from_sums(count, sums).mean;
    ChannelSums centred;
    for (const ChannelMoments& rank : ranks) {
      const ChannelSums own = to_centred_sums(rank, mean);
      centred = {centred.s1 + own.s1, centred.s2 + own.s2};
    }
    return from_centred_sums(count, mean, centred);
  };

  SECTION("2^24 - 1 and 2^24 on 64 ranks: variance 1/4") {
    const std::vector<ChannelMoments> ranks(64, {2, 16777215.5, 0.5});
    const ChannelMoments all = over_ranks(ranks, ScalarKind::f32);
    CHECK(all.mean == 16777215.5);
    CHECK(all.m2 / all.count == 0.25);
  }
  SECTION("a constant has its own value as the mean, to the last bit, however uneven the ranks") {
    Random random(4);
    for (int i = 0; i < 3000; ++i) {
      const double c = random.magnitude(-400, 400);
      std::vector<ChannelMoments> ranks(static_cast<std::size_t>(random.between(2, 65)));
      for (ChannelMoments& rank : ranks) rank = {std::floor(random.between(1, 1e6)), c, 0};
      const ChannelMoments all = over_ranks(ranks, ScalarKind::f64);
      // What is left of M2 is the square of what the first mean erred by, once more rounded.
      const Number first_error = bounds::mean_by_sums(static_cast<Number>(ranks.size())) * std::abs(c);
      const Number left =
          bounds::m2_by_centred_sums(static_cast<Number>(ranks.size())) * all.count * first_error * first_error;
      if (all.mean != c || all.m2 > left) {
        CAPTURE(i, c, ranks.size(), all.mean, all.m2);
        FAIL("not the constant");
      }
    }
    SUCCEED();
  }
}

// ---- Coefficients ---------------------------------------------------------------------------------------------------

TEST_CASE("1 / sqrt(variance + eps), and 0 where both are 0", "[moments]") {
  CHECK(syncbn::batch_inverse_deviation(4, 0) == 0.5);
  CHECK(syncbn::batch_inverse_deviation(0, 0.0625) == 4);
  CHECK(syncbn::batch_inverse_deviation(3, 1) == 0.5);
  CHECK(syncbn::batch_inverse_deviation(0, 0) == 0);
  CHECK(std::isnan(syncbn::batch_inverse_deviation(not_a_number, 1e-5)));
  CHECK(syncbn::batch_inverse_deviation(infinity, 1e-5) == 0);
}

TEST_CASE("running statistics move towards the batch's", "[moments]") {
  CHECK(syncbn::running_update(4, 8, 0.25) == 5);
  CHECK(syncbn::running_update(4, 8, 0) == 4);
  CHECK(syncbn::running_update(1.0 / 3, 8, 1) == 8);
}

TEMPLATE_TEST_CASE("a constant channel gives exactly the bias, at any magnitude", "[moments]", float, double) {
  Random random(5);
  std::vector<TestType> constants{0,
                                  1,
                                  3,
                                  1e4F,
                                  1e7F,
                                  TestType(330000.03),
                                  std::numeric_limits<TestType>::max(),
                                  std::numeric_limits<TestType>::denorm_min(),
                                  std::numeric_limits<TestType>::min()};
  for (int i = 0; i < 1000; ++i) constants.push_back(static_cast<TestType>(random.magnitude(-120, 120)));
  for (const TestType c : constants) {
    for (const double eps : {1e-5, 1e-12, 0.0, 1.0}) {
      for (const double weight : {1.0, -2.5, 0.0, 1e10}) {
        for (const double bias : {0.0, 0.1, -7.0}) {
          const auto k = syncbn::normalize_coefficients<TestType>(
              static_cast<double>(c), syncbn::batch_inverse_deviation(0, eps), weight, bias);
          if (k(c) != static_cast<TestType>(bias)) {
            CAPTURE(c, eps, weight, bias, k.mean, k.scale, k.offset);
            FAIL("not the bias");
          }
        }
      }
    }
  }
  SUCCEED();
}

TEMPLATE_TEST_CASE("a scale beyond P's range is P's largest: no NaN of a deviation of 0", "[moments]", float, double) {
  for (const double weight : {1.0, -1.0, 1e200}) {
    const auto k = syncbn::normalize_coefficients<TestType>(3, syncbn::batch_inverse_deviation(0, 1e-80), weight, 0.5);
    CHECK(std::isfinite(k.scale));
    CHECK((k.scale < 0) == (weight < 0));
    CHECK(k(TestType{3}) == TestType{0.5});
  }
  const auto k = syncbn::propagate_coefficients<TestType>(3, syncbn::batch_inverse_deviation(0, 1e-80), 1, 2, 0);
  CHECK(k(TestType{2}, TestType{3}) == 0);
}

TEMPLATE_TEST_CASE("an infinite scale, of a running variance 0 and eps = 0", "[moments]", float, double) {
  const auto k = syncbn::normalize_coefficients<TestType>(3, infinity, 2, 5);
  CHECK(k.offset == 5);
  CHECK(k(TestType{4}) == std::numeric_limits<TestType>::infinity());
  CHECK(k(TestType{2}) == -std::numeric_limits<TestType>::infinity());
}

TEMPLATE_TEST_CASE("the mean is used with more digits than P has", "[moments]", float, double) {
  Random random(6);
  const Number v = bounds::unit_roundoff<TestType>;
  const bounds::Formats formats{v, std::numeric_limits<TestType>::denorm_min(), 0,
                                std::numeric_limits<TestType>::denorm_min()};
  for (int i = 0; i < 20000; ++i) {
    const double mean = random.magnitude(-10, 30);
    const double variance = std::exp2(random.between(-20, 20));
    const double eps = 1e-5;
    const double weight = random.between(-2, 2);
    const double bias = random.between(-2, 2);
    const auto x = static_cast<TestType>(mean + std::sqrt(variance) * random.between(-3, 3));
    const auto k =
        syncbn::normalize_coefficients<TestType>(mean, syncbn::batch_inverse_deviation(variance, eps), weight, bias);
    const bounds::PassFacts facts{{1, mean, variance, 0}, 0, 0, eps, weight, bias};
    const Number want = (Number{x} - mean) * weight / std::sqrt(Number{variance} + eps) + bias;
    if (std::abs(k(x) - want) > bounds::normalized(facts, formats, x, want)) {
      CAPTURE(i, mean, variance, weight, bias, x, k(x), static_cast<double>(want));
      FAIL("beyond the bound");
    }
  }
  SUCCEED();
}

TEMPLATE_TEST_CASE("the input gradient's coefficients", "[moments]", float, double) {
  Random random(7);
  const Number v = bounds::unit_roundoff<TestType>;
  const bounds::Formats formats{v, std::numeric_limits<TestType>::denorm_min(), 0,
                                std::numeric_limits<TestType>::denorm_min()};
  for (int i = 0; i < 20000; ++i) {
    const double mean = random.magnitude(-10, 30);
    const double variance = std::exp2(random.between(-20, 20));
    const double eps = 1e-5;
    const double weight = random.between(-2, 2);
    const double mean_dy = random.magnitude(-10, 10);
    const double mean_dy_centred = random.magnitude(-10, 10) * std::sqrt(variance);
    const auto x = static_cast<TestType>(mean + std::sqrt(variance) * random.between(-3, 3));
    const auto dy = static_cast<TestType>(mean_dy + random.between(-1, 1));
    const auto k = syncbn::propagate_coefficients<TestType>(mean, syncbn::batch_inverse_deviation(variance, eps),
                                                            weight, mean_dy, mean_dy_centred);
    const bounds::PassFacts facts{{1, mean, variance, 0}, 0, 0, eps, weight, 0};
    const bounds::GradientFacts gradient{mean_dy, 0, mean_dy_centred, 0};
    const Number squared = Number{variance} + eps;
    const Number want =
        (Number{dy} - mean_dy - (Number{x} - mean) * mean_dy_centred / squared) * weight / std::sqrt(squared);
    if (std::abs(k(dy, x) - want) > bounds::propagated(facts, gradient, formats, dy, x, want)) {
      CAPTURE(i, mean, variance, weight, mean_dy, mean_dy_centred, x, dy, k(dy, x), static_cast<double>(want));
      FAIL("beyond the bound");
    }
  }
  SUCCEED();
}

TEMPLATE_TEST_CASE("a constant channel without eps passes no gradient", "[moments]", float, double) {
  const auto k =
      syncbn::propagate_coefficients<TestType>(330000.03, syncbn::batch_inverse_deviation(0, 0), 2, 0.5, 0.25);
  CHECK(k(TestType{3}, TestType(330000.03)) == 0);
  CHECK(k(TestType{-3}, TestType(5)) == 0);
}
