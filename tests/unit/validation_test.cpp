#include <syncbn/validation.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/thrown_by.hpp"

namespace {

using syncbn::Index;
using syncbn::TensorView;
using syncbn_test::thrown_by;

template <std::size_t Dims>
std::string rank_error(int rank) {
  return thrown_by([&] { syncbn::check_rank<Dims>(rank); });
}

template <class T>
bool overlaps_itself(const TensorView<T>& y) {
  return thrown_by([&] { syncbn::check_no_self_overlap("y", y); }) != "nothing";
}

template <class T, class U>
bool overlap(const TensorView<T>& y, const TensorView<U>& x) {
  return thrown_by([&] { syncbn::check_overlap("y", y, "x", x); }) != "nothing";
}

std::string text(const std::vector<Index>& extents, const std::vector<Index>& strides) {
  return "extents " + syncbn::shape_text(extents) + ", strides " + syncbn::shape_text(strides);
}

// ---- Brute force ----------------------------------------------------------------------------------------------------

// Calls visit with all lists of `rank` numbers from `low` to `high`.
template <class Visit>
void for_each_list(int rank, Index low, Index high, const Visit& visit) {
  std::vector<Index> list(static_cast<std::size_t>(rank), low);
  while (true) {
    visit(list);
    std::size_t d = list.size();
    while (d > 0 && list[d - 1] == high) list[--d] = low;
    if (d == 0) return;
    ++list[d - 1];
  }
}

// Offsets of all elements, in logical order.
std::vector<Index> offsets(const std::vector<Index>& extents, const std::vector<Index>& strides, Index first = 0) {
  std::vector<Index> result{first};
  for (std::size_t d = 0; d < extents.size(); ++d) {
    std::vector<Index> longer;
    for (const Index offset : result) {
      for (Index i = 0; i < extents[d]; ++i) longer.push_back(offset + i * strides[d]);
    }
    result = longer;
  }
  return result;
}

// Views are only asked where their elements are, never read; all offsets of the brute force stay within this buffer.
std::array<float, 401> memory{};
float* const middle = memory.data() + 200;

TensorView<float> at(Index offset, const std::vector<Index>& extents, const std::vector<Index>& strides) {
  return {middle + offset, std::span<const Index>(extents), std::span<const Index>(strides)};
}

}  // namespace

// ---- Texts ----------------------------------------------------------------------------------------------------------

TEST_CASE("shapes are printed as PyTorch prints a size", "[validation]") {
  CHECK(syncbn::shape_text({}) == "[]");
  CHECK(syncbn::shape_text(std::vector<Index>{5}) == "[5]");
  CHECK(syncbn::shape_text(std::vector<Index>{1, 3}) == "[1, 3]");
  CHECK(syncbn::shape_text(std::vector<Index>{4, 0, -7, 5000000000}) == "[4, 0, -7, 5000000000]");
}

TEST_CASE("the number of dimensions, in PyTorch's words", "[validation]") {
  CHECK(rank_error<1>(2) == "nothing");
  CHECK(rank_error<1>(3) == "nothing");
  CHECK(rank_error<1>(1) == "ShapeError: expected 2D or 3D input (got 1D input)");
  CHECK(rank_error<1>(4) == "ShapeError: expected 2D or 3D input (got 4D input)");
  CHECK(rank_error<2>(4) == "nothing");
  CHECK(rank_error<2>(3) == "ShapeError: expected 4D input (got 3D input)");
  CHECK(rank_error<2>(5) == "ShapeError: expected 4D input (got 5D input)");
  CHECK(rank_error<3>(5) == "nothing");
  CHECK(rank_error<3>(4) == "ShapeError: expected 5D input (got 4D input)");
  CHECK(rank_error<syncbn::any_dims>(0) == "ShapeError: expected at least 2D input (got 0D input)");
  CHECK(rank_error<syncbn::any_dims>(1) == "ShapeError: expected at least 2D input (got 1D input)");
  for (int rank = 2; rank <= syncbn::max_rank; ++rank) CHECK(rank_error<syncbn::any_dims>(rank) == "nothing");
}

TEST_CASE("the number of channels", "[validation]") {
  CHECK(thrown_by([] { syncbn::check_channels("running_mean", 7, 7); }) == "nothing");
  CHECK(thrown_by([] { syncbn::check_channels("running_mean", 8, 7); }) ==
        "Error: running_mean should contain 7 elements not 8 (x has 7 channels)");
}

TEST_CASE("equal shapes", "[validation]") {
  const auto error = [](std::vector<Index> a, std::vector<Index> b) {
    return thrown_by([&] { syncbn::check_same_shape("y", a, "x", b); });
  };
  CHECK(error({2, 3}, {2, 3}) == "nothing");
  CHECK(error({}, {}) == "nothing");
  CHECK(error({0, 3}, {0, 3}) == "nothing");
  CHECK(error({2, 3}, {3, 2}) == "ShapeError: y has shape [2, 3], but x has [3, 2]");
  CHECK(error({2, 3}, {2, 3, 1}) == "ShapeError: y has shape [2, 3], but x has [2, 3, 1]");
  CHECK(error({2, 3, 1}, {2, 3}) == "ShapeError: y has shape [2, 3, 1], but x has [2, 3]");
}

TEST_CASE("batch statistics need more than one value, or none", "[validation]") {
  const auto error = [](std::initializer_list<Index> extents) {
    return thrown_by([&] { syncbn::check_more_than_one_value(TensorView<float>(nullptr, extents)); });
  };
  const std::string words = "ShapeError: Expected more than 1 value per channel when training, got input size ";
  CHECK(error({1, 3}) == words + "[1, 3]");
  CHECK(error({1, 3, 1, 1}) == words + "[1, 3, 1, 1]");
  CHECK(error({0, 3}) == "nothing");
  CHECK(error({1, 3, 0}) == "nothing");
  CHECK(error({2, 3}) == "nothing");
  CHECK(error({1, 3, 2}) == "nothing");
  CHECK(error({1, 0}) == words + "[1, 0]");

  const auto together = [](double count) { return thrown_by([&] { syncbn::check_more_than_one_value(count, 4); }); };
  CHECK(together(0) == "nothing");
  CHECK(together(1) == words + "1 (over all 4 ranks)");
  CHECK(together(2) == "nothing");
}

TEST_CASE("values per channel", "[validation]") {
  CHECK(elements_per_channel(TensorView<float>(nullptr, {2, 3})) == 2);
  CHECK(elements_per_channel(TensorView<float>(nullptr, {2, 3, 4, 5})) == 40);
  CHECK(elements_per_channel(TensorView<float>(nullptr, {2, 0, 4})) == 8);
  CHECK(elements_per_channel(TensorView<float>(nullptr, {2, 3, 0})) == 0);
  CHECK(elements_per_channel(TensorView<float>(nullptr, {0, 3, 4})) == 0);
  CHECK(elements_per_channel(TensorView<float>(nullptr, {100000, 3, 100000})) == 10000000000);
}

// ---- Outputs that overlap themselves --------------------------------------------------------------------------------

TEST_CASE("an output overlaps itself exactly if two elements share a place", "[validation]") {
  int views = 0;
  int overlapping = 0;
  const auto try_all = [&](int rank, Index most_extent, Index most_stride) {
    for_each_list(rank, 0, most_extent, [&](const std::vector<Index>& extents) {
      for_each_list(rank, -most_stride, most_stride, [&](const std::vector<Index>& strides) {
        const std::vector<Index> places = offsets(extents, strides);
        const bool shared = std::set<Index>(places.begin(), places.end()).size() < places.size();
        ++views;
        overlapping += shared ? 1 : 0;
        if (overlaps_itself(at(0, extents, strides)) != shared) FAIL(text(extents, strides) << ", shared " << shared);
      });
    });
  };
  try_all(1, 5, 3);
  try_all(2, 5, 7);
  try_all(3, 4, 4);
  try_all(4, 2, 3);
  CHECK(overlapping > 1000);
  CHECK(views - overlapping > 1000);
}

TEST_CASE("usual outputs do not overlap themselves", "[validation]") {
  std::vector<float> data(2 * 3 * 4 * 5);
  const TensorView<float> y(data.data(), {2, 3, 4, 5});
  CHECK_FALSE(overlaps_itself(y));
  CHECK_FALSE(overlaps_itself(y.permute({3, 1, 0, 2})));
  CHECK_FALSE(overlaps_itself(TensorView<float>::channels_last(data.data(), {2, 3, 4, 5})));
  CHECK_FALSE(overlaps_itself(y.slice(1, 1, 2).slice(3, 2, 4)));
  CHECK_FALSE(overlaps_itself(TensorView<float>(data.data(), {0, 3}, {0, 0})));
  CHECK_FALSE(overlaps_itself(TensorView<float>(data.data(), {1, 1}, {0, 0})));
  // Strides that are not nested, and yet no two elements meet: 3 i + 2 j.
  CHECK_FALSE(overlaps_itself(TensorView<float>(data.data(), {2, 3}, {3, 2})));
  // Huge extents, of which nothing is enumerated.
  CHECK_FALSE(overlaps_itself(TensorView<float>(nullptr, {1 << 20, 1 << 20, 1 << 20})));
  CHECK(overlaps_itself(TensorView<float>(nullptr, {1 << 20, 1 << 20}, {1 << 20, 0})));
  CHECK(overlaps_itself(TensorView<float>(nullptr, {1 << 20, 1 << 20}, {(1 << 20) - 1, 1})));
}

TEST_CASE("strides made up to be searched for ever are refused instead", "[validation]") {
  std::vector<Index> extents, strides;
  for (Index d = 0; d < 8; ++d) {
    extents.push_back(12);
    strides.push_back(1'000'003 + 2 * d * d * d);
  }
  CHECK(overlaps_itself(at(0, extents, strides)));
}

TEST_CASE("the text about an output that overlaps itself", "[validation]") {
  CHECK(thrown_by([] { syncbn::check_no_self_overlap("dx", at(0, {4, 3}, {0, 1})); }) ==
        "ShapeError: dx overlaps itself: elements of shape [4, 3] with strides [0, 1] share memory");
}

// ---- Outputs that overlap inputs ------------------------------------------------------------------------------------

TEST_CASE("an output may be the input, or apart from it", "[validation]") {
  // Refused: elements in common that are not the same element of both; and ranges of memory that cross where the
  // strides differ, even if no element is shared (what is not decided exactly is refused).
  int refused = 0;
  int accepted = 0;
  const auto try_all = [&](int rank, Index most_extent, Index most_stride, Index most_distance) {
    for_each_list(rank, 1, most_extent, [&](const std::vector<Index>& extents) {
      for_each_list(rank, -most_stride, most_stride, [&](const std::vector<Index>& y_strides) {
        const TensorView<float> y = at(0, extents, y_strides);
        const std::vector<Index> y_places = offsets(extents, y_strides);
        const std::set<Index> y_set(y_places.begin(), y_places.end());
        for_each_list(rank, -most_stride, most_stride, [&](const std::vector<Index>& x_strides) {
          bool same_strides = true;
          for (std::size_t d = 0; d < extents.size(); ++d) {
            same_strides = same_strides && (extents[d] == 1 || y_strides[d] == x_strides[d]);
          }
          const std::vector<Index> from_zero = offsets(extents, x_strides);
          const std::set<Index> x_set(from_zero.begin(), from_zero.end());
          for (Index distance = -most_distance; distance <= most_distance; ++distance) {
            bool shared = false;
            for (const Index place : x_set) shared = shared || y_set.count(place + distance) != 0;
            const bool same = distance == 0 && y_places == from_zero;
            const bool ranges_cross =
                *x_set.begin() + distance <= *y_set.rbegin() && *y_set.begin() <= *x_set.rbegin() + distance;
            const bool expected = !same && (shared || (ranges_cross && !same_strides));
            (expected ? refused : accepted) += 1;
            const bool got = overlap(y, TensorView<const float>(at(distance, extents, x_strides)));
            if (got != expected) {
              FAIL("y: " << text(extents, y_strides) << "; x: " << text(extents, x_strides) << ", " << distance
                         << " elements behind; shared " << shared);
            }
          }
        });
      });
    });
  };
  try_all(1, 4, 3, 12);
  try_all(2, 3, 3, 9);
  CHECK(refused > 1000);
  CHECK(accepted > 1000);
}

TEST_CASE("three and four dimensions of equal strides against the brute force", "[validation]") {
  const auto try_all = [&](int rank, Index most_extent, Index most_stride, Index most_distance) {
    for_each_list(rank, 1, most_extent, [&](const std::vector<Index>& extents) {
      for_each_list(rank, -most_stride, most_stride, [&](const std::vector<Index>& strides) {
        const TensorView<float> y = at(0, extents, strides);
        const std::vector<Index> places = offsets(extents, strides);
        const std::set<Index> set(places.begin(), places.end());
        for (Index distance = -most_distance; distance <= most_distance; ++distance) {
          bool shared = false;
          for (const Index place : places) shared = shared || set.count(place + distance) != 0;
          if (overlap(y, at(distance, extents, strides)) != (shared && distance != 0)) {
            FAIL(text(extents, strides) << ", distance " << distance << ", shared " << shared);
          }
        }
      });
    });
  };
  try_all(3, 3, 3, 12);
  try_all(4, 2, 2, 8);
  SUCCEED();
}

TEST_CASE("slices of one buffer", "[validation]") {
  std::vector<float> data(4 * 6 * 5);
  const TensorView<float> buffer(data.data(), {4, 6, 5});
  const auto low = buffer.slice(1, 0, 3);
  const auto high = buffer.slice(1, 3, 6);
  CHECK_FALSE(overlap(low, high));  // channels apart, ranges of memory across each other
  CHECK_FALSE(overlap(high, low));
  CHECK_FALSE(overlap(low, low));
  CHECK(overlap(low, buffer.slice(1, 2, 5)));
  CHECK(overlap(buffer.slice(1, 2, 5), low));
  CHECK_FALSE(overlap(buffer.slice(0, 0, 2), buffer.slice(0, 2, 4)));
  CHECK_FALSE(overlap(buffer.slice(2, 0, 2), buffer.slice(2, 3, 5)));
  CHECK(overlap(buffer.slice(2, 0, 3), buffer.slice(2, 2, 5)));
  std::vector<float> elsewhere(4 * 3 * 5);
  CHECK_FALSE(overlap(low, TensorView<float>(elsewhere.data(), {4, 3, 5})));
  CHECK_FALSE(overlap(buffer.slice(1, 1, 1), buffer.slice(1, 0, 0)));  // nothing is written
  CHECK_FALSE(overlap(at(0, {0, 3}, {1, 1}), at(1, {0, 3}, {1, 1})));
  // Elements 0, 2, 4, ... and 1, 3, 5, ...
  CHECK_FALSE(
      overlap(TensorView<float>(data.data(), {10, 2}, {4, 2}), TensorView<float>(data.data() + 1, {10, 2}, {4, 2})));
  // The transpose of itself is another tensor in the same place.
  CHECK(overlap(TensorView<float>(data.data(), {3, 3}), TensorView<float>(data.data(), {3, 3}, {1, 3})));
}

TEST_CASE("elements that overlap in part", "[validation]") {
  // Views of the same memory, shifted by a number of bytes; nothing is read through them.
  alignas(4) std::array<unsigned char, 64> bytes{};
  const auto shifted = [&](std::size_t by) {
    return TensorView<std::uint32_t>(static_cast<std::uint32_t*>(static_cast<void*>(bytes.data() + by)), {2, 2},
                                     {4, 2});
  };
  CHECK_FALSE(overlap(shifted(0), shifted(0)));
  CHECK_FALSE(overlap(shifted(0), shifted(4)));
  CHECK(overlap(shifted(0), shifted(8)));
  CHECK(overlap(shifted(0), shifted(2)));
  CHECK(overlap(shifted(3), shifted(0)));
  CHECK(overlap(shifted(6), shifted(0)));  // bytes 6 to 9 and 8 to 11
}

TEST_CASE("the text about an output that overlaps an input", "[validation]") {
  CHECK(thrown_by([] { syncbn::check_overlap("dx", at(0, {4, 3}, {3, 1}), "dy", at(1, {4, 3}, {3, 1})); }) ==
        "ShapeError: dx overlaps dy without being the same elements");
}
