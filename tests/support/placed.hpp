#pragma once

#include <cmath>
#include <cstddef>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <syncbn/tensor_view.hpp>

#include "support/activations.hpp"

/// @file
/// Tensors in any corner of memory: every order of dimensions, gaps, directions and addresses, with canaries between.

namespace syncbn_test {

/// @brief Which dimension lies next to which, slowest first.
enum class Order {
  contiguous,     ///< (N, C, S...)
  channels_last,  ///< (N, S..., C)
  batch_last,     ///< (C, S..., N)
  reversed        ///< (S..., C, N), the first spatial dimension fastest but for those
};

/// @brief Where a tensor's elements lie.
struct Placement {
  const char* name;
  Order order = Order::contiguous;
  Index step = 1;          ///< distance of neighbours in the fastest dimension
  Index padding = 0;       ///< unused elements after each row, plane, ...
  unsigned backwards = 0;  ///< bit d: dimension d runs towards lower addresses
  Index offset = 0;        ///< elements before all others: changes the alignment
};

/// @brief Native layouts first, then whatever a view can be.
inline const std::vector<Placement>& placements() {
  static const std::vector<Placement> all{
      {"contiguous"},
      {"channels last", Order::channels_last},
      {"permuted", Order::batch_last},
      {"the other way round", Order::reversed},
      {"sliced", Order::contiguous, 1, 3},
      {"channels last, sliced", Order::channels_last, 1, 5},
      {"every third", Order::contiguous, 3, 2},
      {"channels apart", Order::channels_last, 2},
      {"backwards", Order::contiguous, 1, 0, ~0U},
      {"channels last, space backwards", Order::channels_last, 1, 1, ~2U},
      {"channels backwards", Order::channels_last, 1, 0, 2U},
      {"at an odd address", Order::contiguous, 1, 0, 0, 1},
      {"channels last at an odd address", Order::channels_last, 1, 0, 0, 3},
  };
  return all;
}

/// @brief A tensor placed in memory of its own. What lies between its elements is never to change.
/// @tparam T  element type.
template <class T>
class Placed {
 public:
  Placed(const std::vector<Index>& extents, const Placement& placement) : extents_(extents), strides_(extents.size()) {
    std::vector<std::size_t> slowest_first;
    const std::size_t rank = extents.size();
    if (placement.order == Order::batch_last) {
      for (std::size_t d = 1; d < rank; ++d) slowest_first.push_back(d);
      slowest_first.push_back(0);
    } else if (placement.order == Order::reversed) {
      for (std::size_t d = rank; d-- > 0;) slowest_first.push_back(d);
    } else {
      for (std::size_t d = 0; d < rank; ++d) {
        if (d != 1 || placement.order == Order::contiguous) slowest_first.push_back(d);
      }
      if (placement.order == Order::channels_last) slowest_first.push_back(1);
    }
    Index stride = placement.step;
    first_ = margin + placement.offset;
    for (std::size_t i = rank; i-- > 0;) {
      const std::size_t d = slowest_first[i];
      const bool backwards = (placement.backwards >> d & 1U) != 0;
      strides_[d] = backwards ? -stride : stride;
      if (backwards && extents[d] > 0) first_ += (extents[d] - 1) * stride;
      stride = stride * (extents[d] > 0 ? extents[d] : 1) + placement.padding;
    }
    memory_.resize(static_cast<std::size_t>(2 * margin + placement.offset + stride));
    std::memset(static_cast<void*>(memory_.data()), canary, memory_.size() * sizeof(T));
  }
  Placed(const std::vector<Index>& extents, const Placement& placement, const std::vector<T>& values)
      : Placed(extents, placement) {
    std::size_t i = 0;
    for_each_element([&](T& element) { element = values.at(i++); });
  }

  syncbn::TensorView<T> view() { return {memory_.data() + first_, extents_, strides_}; }
  syncbn::TensorView<const T> read_only() { return view(); }

  /// @brief The elements in logical order.
  std::vector<T> values() {
    std::vector<T> result;
    for_each_element([&](const T& element) { result.push_back(element); });
    return result;
  }

  /// @brief Whether all memory that is no element is as it was.
  bool canaries_live() {
    std::vector<T> rest = memory_;
    std::swap(rest, memory_);
    for_each_element([&](T& element) { std::memset(static_cast<void*>(&element), canary, sizeof(T)); });
    std::swap(rest, memory_);
    const auto* bytes = static_cast<const unsigned char*>(static_cast<const void*>(rest.data()));
    for (std::size_t i = 0; i < rest.size() * sizeof(T); ++i) {
      if (bytes[i] != canary) return false;
    }
    return true;
  }

 private:
  static constexpr unsigned char canary = 0xa5;
  static constexpr Index margin = 64;  // more than any vector register

  template <class Visit>
  void for_each_element(const Visit& visit) {
    std::vector<Index> index(extents_.size());
    Index left = 1;
    for (const Index e : extents_) left *= e;
    for (; left > 0; --left) {
      Index at = first_;
      for (std::size_t d = 0; d < index.size(); ++d) at += index[d] * strides_[d];
      visit(memory_[static_cast<std::size_t>(at)]);
      for (std::size_t d = index.size(); d-- > 0 && ++index[d] == extents_[d];) index[d] = 0;
    }
  }

  std::vector<Index> extents_, strides_;
  Index first_ = 0;
  std::vector<T> memory_;
};

/// @brief Whether all values are the same bits; one NaN is as good as another.
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], sizeof(T)) == 0) continue;
    if (!std::isnan(value_of(a[i])) || !std::isnan(value_of(b[i]))) return false;
  }
  return true;
}

}  // namespace syncbn_test
