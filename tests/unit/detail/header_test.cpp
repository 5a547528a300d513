#include <syncbn/detail/header.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <syncbn/detail/agreement.hpp>

#include "support/catch.hpp"

namespace {

namespace header = syncbn::detail::header;
using syncbn::Index;
using syncbn::detail::digits_agree;
using syncbn::detail::frame_is_whole;
using syncbn::detail::header_frame_words;

// What a fabric makes of the headers of so many ranks: plain sums of doubles.
std::vector<double> sum_of_headers(
    std::size_t ranks, const std::function<std::uint64_t(std::size_t)>& fingerprint,
    const std::function<double(std::size_t)>& count = [](std::size_t) { return 1.0; }) {
  std::vector<double> sum(header_frame_words);
  std::vector<double> mine(header_frame_words);
  for (std::size_t r = 0; r < ranks; ++r) {
    syncbn::detail::write_header(mine.data(), count(r), r % 3 == 1, r % 5 == 2, fingerprint(r));
    for (std::size_t i = 0; i < header::payload; ++i) sum[i] += mine[i];
    sum.back() += mine.back();
  }
  return sum;
}

// The same for one digit, at each of its four places, the others being equal.
void check_digits(const std::vector<std::uint64_t>& digits, bool agree) {
  std::string text;
  for (const std::uint64_t d : digits) text += std::to_string(d) + " ";
  for (unsigned place = 0; place < 4; ++place) {
    const auto fingerprint = [&](std::size_t r) {
      return (0x1234567890abcdefU & ~(std::uint64_t{0xffff} << (16 * place))) | digits[r] << (16 * place);
    };
    INFO("place " << place << ": " << text);
    CHECK(digits_agree(sum_of_headers(digits.size(), fingerprint).data(), static_cast<int>(digits.size())) == agree);
  }
}

// For many cases at once: the sums of one digit alone.
bool agree(const std::vector<std::uint32_t>& digits) {
  double words[header::payload] = {};
  for (const std::uint32_t d : digits) {
    words[header::digits] += d;
    words[header::digits + 1] += static_cast<double>(d) * d;
  }
  return digits_agree(words, static_cast<int>(digits.size()));
}

bool all_equal(const std::vector<std::uint32_t>& digits) {
  return std::all_of(digits.begin(), digits.end(), [&](std::uint32_t d) { return d == digits[0]; });
}

}  // namespace

TEST_CASE("a header is a fixed number of words, with a place for each", "[header]") {
  std::vector<double> words(header_frame_words, -1);
  syncbn::detail::write_header(words.data(), 17, true, true, 0xffff000200010003U);
  CHECK(words.size() == 512);
  CHECK(words[header::leading] == 1);
  CHECK(words[header::count] == 17);
  CHECK(words[header::failures] == 1);
  CHECK(words[header::trailing] == 1);
  CHECK(std::vector<double>(words.begin() + header::digits, words.begin() + header::digits + 8) ==
        std::vector<double>{3, 9, 1, 1, 2, 4, 65535, 65535.0 * 65535.0});
  CHECK(words[header::by_blocks] == 1);
  for (Index i = header::by_blocks + 1; i < header::payload; ++i) REQUIRE(words[static_cast<std::size_t>(i)] == 0);
  // Kernels of the exchange before may still be reading it.
  for (Index i = header::payload; i < header::trailing; ++i) REQUIRE(words[static_cast<std::size_t>(i)] == -1);
  CHECK(header::payload_capacity == 495);
  CHECK(2 * 247 <= header::payload_capacity);
  CHECK(2 * 248 > header::payload_capacity);
}

TEST_CASE("every sum in a header stays an exact integer", "[header]") {
  // The largest digit on as many ranks as there may be.
  const double largest = 65535.0 * 65535.0 * syncbn::detail::most_ranks;
  CHECK(largest < 0x1p53);
  CHECK(syncbn::detail::most_ranks == 24800);
}

TEST_CASE("a frame is whole if its two ends count all ranks", "[header]") {
  CHECK(frame_is_whole(3, 3, 3));
  CHECK_FALSE(frame_is_whole(2, 3, 3));
  CHECK_FALSE(frame_is_whole(3, 2, 3));
  CHECK_FALSE(frame_is_whole(3, 4, 3));
  CHECK_FALSE(frame_is_whole(2, 2, 3));
}

TEST_CASE("counts add up exactly beyond 2^31, failures too", "[header]") {
  const auto sum = sum_of_headers(
      1000, [](std::size_t) { return 7; }, [](std::size_t r) { return 0x1p40 + static_cast<double>(r); });
  CHECK(sum[header::count] == 1000 * 0x1p40 + 999 * 500);
  CHECK(sum[header::failures] == 333);
  CHECK(frame_is_whole(sum[header::leading], sum[header::trailing], 1000));
  CHECK(digits_agree(sum.data(), 1000));
}

TEST_CASE("digits agree if and only if they are equal: all of them, on few ranks", "[header]") {
  std::size_t wrong = 0;
  for (std::uint32_t a = 0; a < 256; ++a) {
    for (std::uint32_t b = 0; b < 256; ++b) wrong += agree({a, b}) != (a == b);
  }
  for (std::uint32_t a = 0; a < 32; ++a) {
    for (std::uint32_t b = 0; b < 32; ++b) {
      for (std::uint32_t c = 0; c < 32; ++c) wrong += agree({a, b, c}) != all_equal({a, b, c});
    }
  }
  for (std::uint32_t code = 0; code < 12 * 12 * 12 * 12; ++code) {
    const std::vector<std::uint32_t> digits{code % 12, code / 12 % 12, code / 144 % 12, code / 1728};
    wrong += agree(digits) != all_equal(digits);
  }
  for (std::uint32_t code = 0; code < 7 * 7 * 7 * 7 * 7 * 7; ++code) {
    std::vector<std::uint32_t> digits;
    for (std::uint32_t rest = code; digits.size() < 6; rest /= 7) digits.push_back(65529 + rest % 7);
    wrong += agree(digits) != all_equal(digits);
  }
  CHECK(wrong == 0);
}

TEST_CASE("digits agree if and only if they are equal: chosen to deceive", "[header]") {
  check_digits({5, 5, 5}, true);
  check_digits({65535, 65535}, true);
  check_digits({0, 0, 0, 0}, true);
  // Equal sums; equal sums and nearly equal squares; sums that are multiples of the number of ranks.
  check_digits({4, 6}, false);
  check_digits({0, 65535}, false);
  check_digits({65534, 65535}, false);
  check_digits({0, 4, 5}, false);
  check_digits({1, 2, 6}, false);
  check_digits({1, 1, 4}, false);
  check_digits({3, 5, 4, 4}, false);
  check_digits({2, 6, 4, 4, 4}, false);
  for (const std::size_t ranks : {2U, 3U, 4U, 7U, 64U, 1000U}) {
    for (const std::uint64_t base : {0U, 1U, 32767U, 65534U}) {
      check_digits(std::vector<std::uint64_t>(ranks, base), true);
      std::vector<std::uint64_t> one_more(ranks, base);
      ++one_more[ranks / 2];
      check_digits(one_more, false);
      if (base == 0 || base == 65534) continue;
      std::vector<std::uint64_t> balanced(ranks, base);
      ++balanced.front();
      --balanced.back();
      check_digits(balanced, false);
    }
  }
}

TEST_CASE("digits agree if and only if they are equal: on as many ranks as there may be", "[header]") {
  std::mt19937 generator(7);
  const auto random = [&] { return static_cast<std::uint32_t>(generator()); };
  for (const std::size_t ranks : {16384U, 24800U}) {
    const auto count = static_cast<std::uint32_t>(ranks);
    for (const std::uint32_t base : {0U, 1U, 40000U, 65535U}) {
      std::vector<std::uint32_t> digits(ranks, base);
      CHECK(agree(digits));
      for (int repetition = 0; repetition < 20; ++repetition) {
        const std::size_t odd_one = random() % ranks;
        const std::uint32_t other = random() % 65536;
        digits[odd_one] = other;
        CHECK(agree(digits) == (other == base));
        digits[odd_one] = base;
      }
      // The sum moves by a multiple of the number of ranks.
      if (base + count <= 65535) {
        digits[3] = base + count;
        CHECK_FALSE(agree(digits));
        digits[3] = base;
      }
      // Half of them one less, half one more: the same sum.
      if (base == 40000) {
        for (std::size_t r = 0; r < ranks; ++r) digits[r] = r % 2 == 0 ? base - 1 : base + 1;
        CHECK_FALSE(agree(digits));
      }
      // One rank on one side, one on the other.
      std::fill(digits.begin(), digits.end(), base);
      digits.front() = 0;
      digits.back() = 65535;
      CHECK_FALSE(agree(digits));
    }
    const auto equal = sum_of_headers(ranks, [](std::size_t) { return 0xffffffffffffffffU; });
    CHECK(digits_agree(equal.data(), static_cast<int>(ranks)));
    CHECK(frame_is_whole(equal[header::leading], equal[header::trailing], static_cast<int>(ranks)));
    for (const std::size_t odd_one : {std::size_t{0}, ranks / 3, ranks - 1}) {
      const auto different = sum_of_headers(
          ranks, [&](std::size_t r) { return r == odd_one ? 0xfffffffffffeffffU : 0xffffffffffffffffU; });
      CHECK_FALSE(digits_agree(different.data(), static_cast<int>(ranks)));
    }
  }
}

TEST_CASE("random digits on random numbers of ranks never agree unless equal", "[header]") {
  std::mt19937 generator(8);
  const auto random = [&] { return static_cast<std::uint32_t>(generator()); };
  std::size_t wrong = 0;
  for (int repetition = 0; repetition < 20000; ++repetition) {
    std::vector<std::uint32_t> digits(2 + random() % 30);
    const std::uint32_t range = 1 + random() % 6;  // small ranges, so that sums coincide often
    const std::uint32_t base = random() % 65530;
    for (std::uint32_t& d : digits) d = base + random() % range;
    wrong += agree(digits) != all_equal(digits);
  }
  CHECK(wrong == 0);
}
