// A tensor type and an element type that the library has never heard of.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include <syncbn/syncbn.hpp>

#include "compare.hpp"

namespace acme {

// An IEEE binary16 with conversions of its own.
class Half {
 public:
  Half() = default;
  explicit Half(float value) {
    const float size = std::fabs(value);
    unsigned bits = std::isnan(value) ? 0x7e00U : 0x7c00U;  // NaN, infinity
    if (size < 65520) {                                     // what rounds to a finite number
      const int exponent = std::max(std::ilogb(size), -14);
      const float steps = std::nearbyint(std::ldexp(size, 10 - exponent));
      bits = static_cast<unsigned>((exponent + 14) * 1024) + static_cast<unsigned>(steps);
    }
    bits_ = static_cast<std::uint16_t>(bits | (std::signbit(value) ? 0x8000U : 0U));
  }
  explicit operator float() const {
    const int exponent = bits_ >> 10 & 31;
    const auto fraction = static_cast<float>(bits_ & 1023);
    float size = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(fraction + 1024, exponent - 25);
    if (exponent == 31) size = fraction == 0 ? std::numeric_limits<float>::infinity() : std::nanf("");
    return (bits_ & 0x8000U) != 0 ? -size : size;
  }

 private:
  std::uint16_t bits_ = 0;
};

// [begin type]
// Images with interleaved channels (NHWC); each row of pixels begins at a multiple of 16 elements.
template <class Element>
struct ImageBatch {
  long images, height, width, channels;
  long row = (width * channels + 15) / 16 * 16;  // elements from one row to the next
  std::vector<Element> elements = std::vector<Element>(static_cast<std::size_t>(images * height * row));
};
// [end type]

}  // namespace acme

// [begin tensor_traits]
template <class Element>
struct syncbn::tensor_traits<acme::ImageBatch<Element>> {
  static auto view(acme::ImageBatch<Element>& x) { return view_of(x.elements.data(), x); }
  static auto view(const acme::ImageBatch<Element>& x) { return view_of(x.elements.data(), x); }

 private:
  // In the order (N, C, H, W), wherever the elements lie. MaybeConst is `const Element` for a const batch.
  template <class MaybeConst>
  static TensorView<MaybeConst> view_of(MaybeConst* elements, const acme::ImageBatch<Element>& x) {
    return TensorView<MaybeConst>(elements, {x.images, x.channels, x.height, x.width},
                                  {x.height * x.row, 1, x.row, x.channels});
  }
};
// [end tensor_traits]

// [begin scalar_kind]
template <>
struct syncbn::scalar_kind<acme::Half> {
  static constexpr ScalarKind value = ScalarKind::f16;
};

static_assert(syncbn::check_tensor<acme::ImageBatch<acme::Half>>());
// [end scalar_kind]

int main() {
  const acme::Half unused(-1000.0F);
  acme::ImageBatch<acme::Half> x{4, 7, 9, 5}, y = x;
  std::fill(y.elements.begin(), y.elements.end(), unused);

  // The same values as floats in the order (N, C, H, W).
  std::vector<float> values = example::numbers(4 * 5 * 7 * 9, 1), expected(values.size()), results;
  const syncbn::TensorView<float> plain(values.data(), {4, 5, 7, 9});
  const auto for_each_index = [](const auto& f) {
    for (long i = 0; i < 4 * 5 * 7 * 9; ++i) f(i / 315, i / 63 % 5, i / 9 % 7, i % 9);
  };
  for_each_index([&](auto... index) {
    const acme::Half half(plain(index...));
    syncbn::view(x)(index...) = half;
    plain(index...) = static_cast<float>(half);
  });

  // [begin use]
  syncbn::BatchNorm<2> bn(5);           // parameters are float, and the arithmetic
  const auto saved = bn.forward(x, y);  // on the elements where they are: no copies
  // [end use]

  syncbn::BatchNorm<2> same(5);
  static_cast<void>(same.forward(plain, syncbn::TensorView<float>(expected.data(), {4, 5, 7, 9})));
  for_each_index([&](auto... index) { results.push_back(static_cast<float>(syncbn::view(y)(index...))); });
  const auto untouched = std::count_if(y.elements.begin(), y.elements.end(),
                                       [](acme::Half half) { return static_cast<float>(half) == -1000; });
  bool ok = example::agree("y, as precise as halves are", results, expected, 0x1p-11);
  ok &= example::holds("the padding was not written to", untouched == 4 * 7 * (x.row - 9 * 5));
  return ok ? 0 : 1;
}
