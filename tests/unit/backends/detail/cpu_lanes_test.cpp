#include <syncbn/backends/detail/cpu_lanes.hpp>

#include <vector>

#include "support/catch.hpp"
#include "support/sixteen_bits.hpp"

TEST_CASE("eight lanes", "[cpu_lanes]") {
  using syncbn::cpu::Lanes;
  const std::vector<double> eight{1, 2, 4, 8, 16, 32, 64, 128};
  const std::vector<float> floats(eight.begin(), eight.end());
  const auto numbers = [](const Lanes& lanes) {
    std::vector<double> result(8);
    lanes.store(result.data());
    return result;
  };
  const Lanes lanes = Lanes::load(eight.data());
  CHECK(numbers(lanes) == eight);
  CHECK(numbers(Lanes::load(floats.data())) == eight);
  CHECK(numbers(Lanes::all(7)) == std::vector<double>(8, 7));
  CHECK(numbers(lanes + Lanes::all(1)) == std::vector<double>{2, 3, 5, 9, 17, 33, 65, 129});
  CHECK(numbers(lanes - Lanes::all(1)) == std::vector<double>{0, 1, 3, 7, 15, 31, 63, 127});
  CHECK(numbers(multiply_add(lanes, Lanes::all(2), Lanes::all(1))) ==
        std::vector<double>{3, 5, 9, 17, 33, 65, 129, 257});
  CHECK(sum_of_lanes(lanes) == 255);
}

TEST_CASE("some of eight lanes, loaded from as many elements and no more", "[cpu_lanes]") {
  using syncbn::Index;
  using syncbn::cpu::Lanes;
  const auto check = []<class T>(const T& convert) {
    for (Index first = 0; first <= 8; ++first) {
      for (Index last = first; last <= 8; ++last) {
        INFO("lanes " << first << " to " << last);
        std::vector<double> expected(8, -1);
        // As many elements as there are lanes: a sanitizer sees who reads another.
        std::vector<decltype(convert(0.0))> elements;
        for (Index i = first; i < last; ++i) {
          expected[static_cast<std::size_t>(i)] = static_cast<double>(i + 1);
          elements.push_back(convert(static_cast<double>(i + 1)));
        }
        std::vector<double> loaded(8);
        Lanes::load_some(elements.data(), first, last, -1).store(loaded.data());
        CHECK(loaded == expected);
      }
    }
  };
  check([](double value) { return value; });
  check([](double value) { return static_cast<float>(value); });
  check([](double value) { return syncbn::BFloat16{syncbn_test::bfloat16.nearest(value)}; });
}

TEST_CASE("lanes are added as a tree that never changes", "[cpu_lanes]") {
  // The small numbers survive only if 1 and -1 meet first.
  const double lanes[8] = {1, 1, 0x1p-60, 0x1p-61, -1, -1, 0, 0};
  CHECK(syncbn::cpu::sum_of_lanes(lanes) == 0x1p-60 + 0x1p-61);
  CHECK(sum_of_lanes(syncbn::cpu::Lanes::load(lanes)) == syncbn::cpu::sum_of_lanes(lanes));
}
