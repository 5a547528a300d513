#include <syncbn/backends/detail/cpu_geometry.hpp>

#include <cstdint>
#include <random>
#include <vector>

#include "support/catch.hpp"

namespace {

using syncbn::Float16;
using syncbn::Index;
using syncbn::TensorView;
using syncbn::cpu::Cursor;
using syncbn::cpu::Geometry;
using syncbn::cpu::Grid;

// Offsets of one channel's elements in logical order, without the channel's own.
std::vector<Index> offsets(const TensorView<float>& x) {
  std::vector<Index> result{0};
  for (int d = 0; d < x.rank(); ++d) {
    if (d == 1) continue;
    std::vector<Index> longer;
    for (const Index offset : result) {
      for (Index i = 0; i < x.extent(d); ++i) longer.push_back(offset + i * x.stride(d));
    }
    result = longer;
  }
  return result;
}

}  // namespace

TEST_CASE("blocks and segments hold each element once, in order", "[cpu_geometry]") {
  std::vector<Index> sizes{70000, 16 * 2048, 16 * 2048 + 1, 17 * 2048, 1000003, Index{1} << 33};
  for (Index n = 1; n < 3 * 2048; n += 7) sizes.push_back(n);
  for (const Index n : {2047, 2048, 2049}) sizes.push_back(n);
  for (const Index n : sizes) {
    const Grid grid(n);
    bool right = grid.segments >= 1 && grid.segments <= 16 && grid.first_block(0) == 0 &&
                 grid.first_block(grid.segments) == grid.blocks && grid.first_element(0) == 0 &&
                 grid.first_element(grid.blocks) == n && grid.first_element(grid.blocks - 1) < n;
    for (Index s = 0; s < grid.segments; ++s) right = right && grid.first_block(s) < grid.first_block(s + 1);
    for (Index b = 0; b < grid.blocks && b < 100; ++b) {
      const Index size = grid.first_element(b + 1) - grid.first_element(b);
      right = right && (b + 1 == grid.blocks ? size >= 1 && size <= 2048 : size == 2048);
    }
    CAPTURE(n, grid.blocks, grid.segments);
    if (!right) FAIL("elements are missing or twice");
  }
  CHECK(Grid(0).segments == 0);
  CHECK(Grid(2048).blocks == 1);
  CHECK(Grid(2049).blocks == 2);
  CHECK(Grid(17 * 2048).segments == 16);
}

TEST_CASE("a cursor walks a channel in logical order, whatever the strides", "[cpu_geometry]") {
  std::mt19937 random(1);
  const auto below = [&](Index n) { return static_cast<Index>(random() % static_cast<std::uint32_t>(n)); };
  int merged = 0;
  for (int i = 0; i < 4000; ++i) {
    // Two operands of the same extents; strides nested, permuted, negative, zero or arbitrary.
    std::vector<Index> extents(static_cast<std::size_t>(2 + below(5)));
    for (Index& e : extents) e = 1 + below(4);
    std::vector<Index> strides[2];
    for (auto& s : strides) {
      const TensorView<float> natural(nullptr, std::span<const Index>(extents));
      const auto last = static_cast<int>(extents.size()) - 1;
      for (int d = 0; d <= last; ++d) s.push_back(natural.stride(d));
      const Index kind = below(5);
      for (Index& stride : s) {
        if (kind == 1) stride *= 3;
        if (kind == 2 && below(2) == 0) stride = -stride;
        if (kind == 3) stride = below(7) - 3;
        if (kind == 4 && below(2) == 0) stride = 0;
      }
    }
    const TensorView<float> a(nullptr, std::span<const Index>(extents), std::span<const Index>(strides[0]));
    const TensorView<float> b(nullptr, std::span<const Index>(extents), std::span<const Index>(strides[1]));
    const std::vector<Index> want[2] = {offsets(a), offsets(b)};
    const Geometry<2> geometry(a, b);
    merged += geometry.dims + 1 < a.rank() ? 1 : 0;
    bool right = geometry.channels == a.extent(1) && geometry.channel_stride[0] == a.stride(1) &&
                 geometry.channel_stride[1] == b.stride(1) && geometry.elements == static_cast<Index>(want[0].size());
    // From every element on, in steps that end at runs.
    for (Index first = 0; first < geometry.elements && right; ++first) {
      Cursor<2> cursor(geometry, first);
      for (Index at = first; at < geometry.elements;) {
        const Index run = cursor.run();
        right = right && run >= 1 && at + run <= geometry.elements;
        const Index count = right ? 1 + below(run) : 1;
        for (Index j = 0; j < count && right; ++j) {
          const auto element = static_cast<std::size_t>(at + j);
          for (std::size_t k = 0; k < 2; ++k) {
            right = right && cursor.offset(k) + j * geometry.run_stride(k) == want[k][element];
          }
        }
        cursor.advance(count);
        at += count;
      }
    }
    if (!right) {
      CAPTURE(i, extents, strides[0], strides[1], geometry.dims);
      FAIL("the cursor is elsewhere");
    }
  }
  CHECK(merged > 100);
}

TEST_CASE("dimensions that can be walked as one are merged", "[cpu_geometry]") {
  const TensorView<float> nchw(nullptr, {4, 3, 5, 7});
  const auto nhwc = TensorView<float>::channels_last(nullptr, {4, 3, 5, 7});
  const Geometry<1> rows(nchw);
  CHECK(rows.dims == 2);
  CHECK(rows.run_length() == 35);
  CHECK(rows.contiguous_runs());
  CHECK_FALSE(rows.contiguous_channels());
  const Geometry<1> columns(nhwc);
  CHECK(columns.dims == 1);
  CHECK(columns.run_length() == 140);
  CHECK_FALSE(columns.contiguous_runs());
  CHECK(columns.contiguous_channels());
  // What one operand could merge, the other may forbid.
  const Geometry<2> both(nchw, nhwc);
  CHECK(both.dims == 2);
  CHECK_FALSE(both.contiguous_runs());
  CHECK_FALSE(both.contiguous_channels());
  const Geometry<1> single(TensorView<float>(nullptr, {1, 3, 1, 1}));
  CHECK(single.dims == 1);
  CHECK(single.run_length() == 1);
  CHECK(single.elements == 1);
}

TEST_CASE("elements are fetched in place where they can be, and gathered otherwise", "[cpu_geometry]") {
  std::vector<float> data(60);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(i);
  std::vector<float> buffer(60);
  const auto fetched = [&](const TensorView<float>& x, Index first, Index count) {
    const Geometry<1> geometry(x);
    const float* p = syncbn::cpu::fetch<float>(x.data(), Cursor<1>(geometry, first), geometry, 0, count, buffer.data());
    return std::pair(p != buffer.data(), std::vector<float>(p, p + count));
  };
  const TensorView<float> x(data.data(), {3, 2, 10});
  CHECK(fetched(x, 11, 5) == std::pair(true, std::vector<float>{21, 22, 23, 24, 25}));
  CHECK(fetched(x, 8, 2) == std::pair(true, std::vector<float>{8, 9}));
  CHECK(fetched(x, 8, 3) == std::pair(false, std::vector<float>{8, 9, 20}));
  CHECK(fetched(x, 8, 4) == std::pair(false, std::vector<float>{8, 9, 20, 21}));
  const TensorView<float> reversed(data.data() + 59, {3, 2, 10}, {-20, -10, -1});
  CHECK(fetched(reversed, 9, 3) == std::pair(false, std::vector<float>{50, 39, 38}));
  const TensorView<float> repeated(data.data() + 5, {2, 1, 2}, {0, 0, 1});
  CHECK(fetched(repeated, 0, 4) == std::pair(false, std::vector<float>{5, 6, 5, 6}));
}
