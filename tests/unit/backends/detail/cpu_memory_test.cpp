#include <syncbn/backends/detail/cpu_memory.hpp>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "support/catch.hpp"

using syncbn::Index;
using syncbn::cpu::LineWriter;

TEMPLATE_TEST_CASE("runs of any length arrive in order, and nothing beside them is touched", "[cpu_memory]", float,
                   double, std::uint16_t) {
  constexpr Index per_line = 64 / static_cast<Index>(sizeof(TestType));
  constexpr auto marker = static_cast<TestType>(-1);
  const std::vector<std::vector<Index>> kinds{{},
                                              {0},
                                              {1},
                                              {3},
                                              {per_line - 1},
                                              {per_line},
                                              {per_line + 1},
                                              {1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
                                              {700},
                                              {5, 0, 9},
                                              {49, 49, 49, 49},
                                              {1023, 1, 1024, 1024, 1024, 7, 1024, 900, 1},
                                              std::vector<Index>(100, 196)};
  for (const auto& runs : kinds) {
    for (Index offset = 0; offset <= per_line; ++offset) {
      Index size = 0;
      for (const Index n : runs) size += n;
      CAPTURE(runs, offset);
      // Aligned to lines, whatever the allocator does.
      std::vector<TestType> memory(static_cast<std::size_t>(size + 4 * per_line), marker);
      TestType* const begin = memory.data();
      const Index to_line = (64 - static_cast<Index>(reinterpret_cast<std::uintptr_t>(begin) % 64)) % 64 /
                            static_cast<Index>(sizeof(TestType));
      TestType* const out = begin + to_line + offset;
      LineWriter<TestType> writer(out);
      Index written = 0;
      for (const Index n : runs) {
        TestType* const place = writer.next(n);
        for (Index i = 0; i < n; ++i) place[i] = static_cast<TestType>(written++);
      }
      writer.finish();
      syncbn::cpu::end_streaming();
      bool right = true;
      for (Index i = 0; i < size; ++i) right = right && out[i] == static_cast<TestType>(i);
      CHECK(right);
      CHECK(std::count(memory.begin(), memory.end(), marker) == 4 * per_line);
    }
  }
}

TEST_CASE("the distance to a line", "[cpu_memory]") {
  alignas(64) float values[64] = {};
  for (Index i = 0; i < 32; ++i) {
    CHECK(syncbn::cpu::elements_to_line(values + i) == (16 - i % 16) % 16);
    for (Index n = 0; n < 32; ++n) {
      CHECK(syncbn::cpu::in_whole_lines(values + i, n) == (i % 16 == 0 && n % 16 == 0));
    }
  }
}
