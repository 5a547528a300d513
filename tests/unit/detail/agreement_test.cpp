#include <syncbn/detail/agreement.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include <syncbn/detail/call.hpp>

#include "support/catch.hpp"
#include "support/thrown_by.hpp"

namespace {

using namespace syncbn::detail;
using syncbn::ExchangeCall;
using syncbn::RankFailure;
using syncbn::ScalarKind;
using syncbn_test::thrown_by;

constexpr std::size_t payload_words = static_cast<std::size_t>(header_frame_words - header::payload);

std::string sent_and_read(const std::string& text) {
  std::vector<double> words(payload_words);
  write_text(words.data(), text);
  std::vector<double> sums(words);  // of one speaker, and of silent ranks
  for (std::size_t i = 0; i < words.size(); ++i) sums[i] += 0.0;
  Text read;
  read_text(sums.data(), read);
  return std::string(read.view());
}

ExchangeCall some_call() {
  ExchangeCall call;
  call.operation = "forward";
  call.channels = 64;
  call.dims = 2;
  call.kind = ScalarKind::f32;
  call.words = 2;
  call.eps = 1e-5;
  call.momentum = 0.1;
  call.flags = 3;
  call.batches = 7;
  return call;
}

}  // namespace

TEST_CASE("a text travels in words that are exact integers", "[agreement]") {
  std::string text;
  for (std::size_t length = 0; length <= RankFailure::longest_message; ++length) {
    if (sent_and_read(text) != text) FAIL_CHECK("length " << length);
    text += static_cast<char>(1 + length * 37 % 255);  // all values of a byte but 0
  }
  std::vector<double> words(payload_words);
  write_text(words.data(), std::string(RankFailure::longest_message, '\xff'));
  for (const double word : words) REQUIRE((word == std::floor(word) && word < 0x1p53));
}

TEST_CASE("a longer text is cut, not overrun", "[agreement]") {
  Text text;
  copy_text(std::string(RankFailure::longest_message + 100, 'x'), text);
  CHECK(text.view() == std::string(RankFailure::longest_message, 'x'));
}

TEST_CASE("the lowest rank is found in a union of bits, on up to as many ranks as there may be", "[agreement]") {
  const auto sum_of_bits = [](const std::vector<int>& ranks) {
    std::vector<double> sum(payload_words);
    for (const int rank : ranks) {
      std::vector<double> mine(payload_words);
      set_rank(mine.data(), rank);
      for (std::size_t i = 0; i < mine.size(); ++i) sum[i] += mine[i];
    }
    return sum;
  };
  for (const int ranks : {1, 2, 49, 50, 51, 100, 16384, most_ranks}) {
    CHECK(lowest_rank(sum_of_bits({}).data(), ranks) == -1);
    const int step = ranks > 1000 ? 997 : 1;
    for (int rank = 0; rank < ranks; rank += step) {
      std::vector<int> some{rank};
      if (rank < ranks - 1) some.push_back(ranks - 1);
      if (rank + 1 < ranks - 1) some.insert(some.begin(), rank + 1);
      if (lowest_rank(sum_of_bits(some).data(), ranks) != rank) FAIL_CHECK(rank << " of " << ranks);
    }
  }
  std::vector<double> all(payload_words);
  for (int rank = 0; rank < most_ranks; ++rank) {
    std::vector<double> mine(static_cast<std::size_t>(rank / ranks_per_word) + 1);
    set_rank(mine.data(), rank);
    all[mine.size() - 1] += mine.back();
  }
  CHECK(lowest_rank(all.data(), most_ranks) == 0);
  for (const double word : all) REQUIRE((word == 0x1p50 - 1 && word < 0x1p53));
}

TEST_CASE("a fingerprint depends on every part of the call, on the layer and on the sequence", "[agreement]") {
  std::set<std::uint64_t> seen;
  const auto add = [&](const ExchangeCall& call, const char* layer = "#0", std::uint64_t sequence = 0,
                       syncbn::Index blocks = 1) {
    return seen.insert(fingerprint(call, blocks, layer, sequence)).second;
  };
  CHECK(add(some_call()));
  CHECK_FALSE(add(some_call()));
  CHECK(add(some_call(), "#1"));
  CHECK(add(some_call(), ""));
  CHECK(add(some_call(), "#0", 1));
  CHECK(add(some_call(), "#0", std::uint64_t{1} << 40U));
  CHECK(add(some_call(), "#0", 0, 2));
  const auto changed = [&](const auto& change) {
    ExchangeCall call = some_call();
    change(call);
    return add(call);
  };
  CHECK(changed([](ExchangeCall& c) { c.operation = "backward"; }));
  CHECK(changed([](ExchangeCall& c) { c.operation = "forwar"; }));
  CHECK(changed([](ExchangeCall& c) { c.channels = 65; }));
  CHECK(changed([](ExchangeCall& c) { c.channels = 64 + (syncbn::Index{1} << 32); }));
  CHECK(changed([](ExchangeCall& c) { c.dims = -1; }));
  CHECK(changed([](ExchangeCall& c) { c.kind = ScalarKind::f64; }));
  CHECK(changed([](ExchangeCall& c) { c.words = 3; }));
  CHECK(changed([](ExchangeCall& c) { c.eps = std::nextafter(1e-5, 1); }));
  CHECK(changed([](ExchangeCall& c) { c.momentum = 0.2; }));
  CHECK(changed([](ExchangeCall& c) { c.momentum = std::numeric_limits<double>::quiet_NaN(); }));
  CHECK_FALSE(changed([](ExchangeCall& c) { c.momentum = -std::nan("17"); }));  // any NaN is "none"
  CHECK(changed([](ExchangeCall& c) { c.flags = 2; }));
  CHECK(changed([](ExchangeCall& c) { c.batches = 8; }));
  CHECK(changed([](ExchangeCall& c) { c.batches = -1; }));
}

TEST_CASE("each digit of a fingerprint varies: a quarter of it says much already", "[agreement]") {
  for (unsigned place = 0; place < 4; ++place) {
    std::set<std::uint64_t> digits;
    for (std::uint64_t sequence = 0; sequence < 1000; ++sequence) {
      digits.insert(fingerprint(some_call(), 1, "#0", sequence) >> (16 * place) & 0xffffU);
    }
    CHECK(digits.size() > 950);  // 992 are expected of 1000 at random
  }
}

TEST_CASE("a call is described with everything that it is compared by", "[agreement]") {
  CHECK(describe(some_call(), 1, "stem", 12) ==
        "forward of layer 'stem', exchange 12, 64 channels, 2 dims, Float, eps 1e-05, momentum 0.1, flags 3, "
        "num_batches_tracked 7");
  ExchangeCall call = some_call();
  call.dims = -1;
  call.batches = -1;
  CHECK(describe(call, 3, "#0", 0) ==
        "forward of layer '#0', exchange 0, 64 channels, any dims, Float, eps 1e-05, momentum 0.1, flags 3, 3 blocks");
}

TEST_CASE("a failure keeps the first exception's kind and text, and nothing runs after it", "[agreement]") {
  RankFailure failure;
  bool ran = false;
  failure.capture([] {});
  CHECK_FALSE(failure.failed());
  CHECK_NOTHROW(failure.rethrow());
  failure.capture([] { throw syncbn::ShapeError("first"); });
  failure.capture([&] {
    ran = true;
    throw syncbn::Error("second");
  });
  CHECK(failure.failed());
  CHECK_FALSE(ran);
  CHECK(failure.kind() == syncbn::FailureKind::shape);
  CHECK(failure.message() == "first");
  CHECK(thrown_by([&] { failure.rethrow(); }) == "ShapeError: first");

  RankFailure other;
  other.capture([] { throw std::string("not an exception class"); });
  CHECK(other.kind() == syncbn::FailureKind::error);
  CHECK(other.message() == "an exception of unknown type");
  CHECK_THROWS_AS(other.rethrow(), std::string);

  RankFailure allocation;
  allocation.capture([] { throw std::bad_alloc(); });
  CHECK(allocation.message() == std::bad_alloc().what());
  CHECK_THROWS_AS(allocation.rethrow(), std::bad_alloc);

  RankFailure lengthy;
  lengthy.capture([] { throw syncbn::Error(std::string(5000, 'x')); });
  CHECK(lengthy.message() == std::string(RankFailure::longest_message, 'x'));
}
