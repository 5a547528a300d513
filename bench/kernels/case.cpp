#include "case.hpp"

#include <array>
#include <functional>
#include <numeric>

namespace bench {

namespace {

Index product(const std::vector<Index>& extents) {
  return std::accumulate(extents.begin(), extents.end(), Index{1}, std::multiplies<>());
}

// Of a tensor that has no gaps.
std::vector<Index> dense_strides(const std::vector<Index>& extents, Layout layout) {
  std::vector<Index> result(extents.size());
  Index stride = 1;
  if (layout == Layout::channels_last) {
    result[1] = 1;
    stride = extents[1];
  }
  for (std::size_t d = extents.size(); d-- > 0;) {
    if (layout == Layout::channels_last && d == 1) continue;
    result[d] = stride;
    stride *= extents[d];
  }
  return result;
}

}  // namespace

const char* name(Pass pass) {
  return pass == Pass::forward ? "forward" : pass == Pass::backward ? "backward" : "inference";
}
const char* name(Layout layout) { return layout == Layout::channels_first ? "NCHW" : "NHWC"; }
const char* name(Format format) {
  constexpr std::array names{"f32", "f64", "bf16", "f16"};
  return names[static_cast<std::size_t>(format)];
}
std::size_t bytes_of(Format format) {
  constexpr std::array<std::size_t, 4> bytes{4, 8, 2, 2};
  return bytes[static_cast<std::size_t>(format)];
}

Index Case::elements() const { return product(extents); }
std::vector<Index> Case::strides() const { return dense_strides(extents, layout); }
std::vector<Index> Case::input_extents() const {
  std::vector<Index> result = extents;
  if (sliced) result.back() += 8;
  return result;
}
Index Case::input_elements() const { return product(input_extents()); }
std::vector<Index> Case::input_strides() const { return dense_strides(input_extents(), layout); }
std::string Case::text() const {
  std::string result = std::string(name(pass)) + "/" + name(format) + "/" + name(layout) + "/";
  for (std::size_t d = 0; d < extents.size(); ++d) result += (d == 0 ? "" : "x") + std::to_string(extents[d]);
  result += "/t" + std::to_string(threads);
  if (!affine) result += "/plain";
  if (in_place) result += "/in_place";
  if (sliced) result += "/sliced";
  if (unaligned) result += "/unaligned";
  return result;
}

}  // namespace bench
