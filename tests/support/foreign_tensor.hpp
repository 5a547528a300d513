#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <syncbn/scalar_kind.hpp>
#include <syncbn/tensor_view.hpp>

/// @file Somebody else's library, and the two specialisations that make its types known: the worked case of
/// docs/extending.md.

namespace acme {

/// @brief An IEEE binary16 of their own, with its bits where nobody else can reach them.
class Half {
 public:
  Half() = default;
  static Half from_bits(std::uint16_t bits) {
    Half result;
    result.bits_ = bits;
    return result;
  }
  std::uint16_t to_bits() const { return bits_; }

 private:
  std::uint16_t bits_ = 0;
};

/// @brief Images with interleaved channels (NHWC); each row of pixels begins at a multiple of 16 elements.
template <class Element>
struct ImageBatch {
  long images, height, width, channels;
  long row = (width * channels + 15) / 16 * 16;  ///< elements from one row to the next
  std::vector<Element> elements = std::vector<Element>(static_cast<std::size_t>(images * height * row));

  Element& at(long image, long channel, long y, long x) {
    return elements[static_cast<std::size_t>((image * height + y) * row + x * channels + channel)];
  }
};

}  // namespace acme

template <>
struct syncbn::scalar_kind<acme::Half> {
  static constexpr ScalarKind value = ScalarKind::f16;
};

template <class Element>
struct syncbn::tensor_traits<acme::ImageBatch<Element>> {
  static auto view(acme::ImageBatch<Element>& x) { return view_of(x.elements.data(), x); }
  static auto view(const acme::ImageBatch<Element>& x) { return view_of(x.elements.data(), x); }

 private:
  template <class MaybeConst>
  static TensorView<MaybeConst> view_of(MaybeConst* elements, const acme::ImageBatch<Element>& x) {
    return TensorView<MaybeConst>(elements, {x.images, x.channels, x.height, x.width},
                                  {x.height * x.row, 1, x.row, x.channels});
  }
};
