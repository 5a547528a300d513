/// @file
/// A tensor in a backend's memory, of any element format, at any strides, with guards around it and in its gaps.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include <syncbn/concepts.hpp>

#include "conformance/outcomes.hpp"
#include "support/activations.hpp"
#include "support/oracle.hpp"

namespace syncbn_test {

/// @brief Where elements lie. Every one of them must give the same bits.
enum class Placement {
  rows,           ///< N, C, S...: no gaps
  channels_last,  ///< N, S..., C
  batch_last,     ///< C, S..., N
  padded,         ///< as rows, each dimension with room for one more, beginning at an odd element
  reversed,       ///< as rows, samples and positions from the last to the first
  sliced          ///< every other channel of twice as many, channels last
};
inline constexpr std::array<Placement, 6> all_placements{Placement::rows,       Placement::channels_last,
                                                         Placement::batch_last, Placement::padded,
                                                         Placement::reversed,   Placement::sliced};

inline const char* name(Placement placement) {
  constexpr std::array<const char*, 6> names{"rows", "channels_last", "batch_last", "padded", "reversed", "sliced"};
  return names[static_cast<std::size_t>(placement)];
}

/// @brief The index of the first element in memory, and the strides.
struct Place {
  Index first = 0;
  std::vector<Index> strides;
};

inline Place place_of(const std::vector<Index>& extents, Placement placement) {
  std::vector<Index> room = extents;
  Place place;
  switch (placement) {
    case Placement::channels_last:
      place.strides = strides_of(extents, Layout::channels_last);
      break;
    case Placement::batch_last:
      place.strides = strides_of(extents, Layout::permuted);
      break;
    case Placement::padded:
      for (Index& extent : room) ++extent;
      place.strides = strides_of(room, Layout::contiguous);
      place.first = 1;
      break;
    case Placement::sliced:
      room[1] *= 2;
      place.strides = strides_of(room, Layout::channels_last);
      place.strides[1] = 2;
      break;
    default:
      place.strides = strides_of(extents, Layout::contiguous);
  }
  if (placement == Placement::reversed) {
    for (std::size_t d = 0; d < extents.size(); ++d) {
      if (d == 1 || extents[d] == 0) continue;
      place.first += (extents[d] - 1) * place.strides[d];
      place.strides[d] = -place.strides[d];
    }
  }
  return place;
}

/// @brief Numbers in format T, each rounded once.
template <class T>
std::vector<T> elements_of(const Numbers& values) {
  std::vector<T> result;
  result.reserve(values.size());
  for (const Number value : values) result.push_back(element<T>(value));
  return result;
}

/// @brief The values of elements, exactly.
template <class T>
Numbers numbers_of(const std::vector<T>& elements) {
  Numbers result;
  result.reserve(elements.size());
  for (const T e : elements) result.push_back(value_of(e));
  return result;
}

/// @brief The same bits.
template <class T>
bool same_elements(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

/// @brief A tensor for a backend; elements go in and out in logical order, row by row over N, C, S...
template <class Backend, class T>
class BackendTensor {
 public:
  using Space = typename Backend::memory_space;

  /// @brief Every element, and all memory around them, is a NaN.
  BackendTensor(Backend& backend, std::vector<Index> extents, Placement placement)
      : backend_(&backend), extents_(std::move(extents)), place_(place_of(extents_, placement)) {
    place_.first += guard;
    Index last = place_.first;
    for (std::size_t d = 0; d < extents_.size(); ++d) {
      if (place_.strides[d] > 0 && extents_[d] > 0) last += (extents_[d] - 1) * place_.strides[d];
    }
    untouched_.assign(static_cast<std::size_t>(last + 1 + guard), element<T>(std::numeric_limits<double>::quiet_NaN()));
    memory_.resize(untouched_.size());
    upload(untouched_);
  }
  BackendTensor(Backend& backend, std::vector<Index> extents, Placement placement, const std::vector<T>& elements)
      : BackendTensor(backend, std::move(extents), placement) {
    std::size_t i = 0;
    for_each_offset([&](std::size_t offset) { untouched_[offset] = elements[i++]; });
    upload(untouched_);
  }

  syncbn::TensorView<T, Space> view() { return {memory_.data() + place_.first, extents_, place_.strides}; }
  syncbn::TensorView<const T, Space> read() const { return {memory_.data() + place_.first, extents_, place_.strides}; }

  /// @brief The elements in logical order.
  std::vector<T> elements() const {
    const std::vector<T> host = download();
    std::vector<T> result;
    result.reserve(host.size());
    for_each_offset([&](std::size_t offset) { result.push_back(host[offset]); });
    return result;
  }
  Numbers numbers() const { return numbers_of(elements()); }

  /// @brief Whether nothing but the elements was written to.
  bool gaps_are_untouched() const {
    std::vector<T> host = download();
    for_each_offset([&](std::size_t offset) { host[offset] = untouched_[offset]; });
    return std::memcmp(host.data(), untouched_.data(), host.size() * sizeof(T)) == 0;
  }

 private:
  static constexpr Index guard = 16;

  void upload(const std::vector<T>& host) {
    backend_->upload(host.data(), static_cast<Index>(host.size()), memory_.data());
  }
  std::vector<T> download() const {
    std::vector<T> host(untouched_.size());
    backend_->download(memory_.data(), static_cast<Index>(host.size()), host.data());
    return host;
  }

  template <class F>
  void for_each_offset(const F& f) const {
    Index count = 1;
    for (const Index extent : extents_) count *= extent;
    std::vector<Index> index(extents_.size());
    for (Index i = 0; i < count; ++i) {
      Index offset = place_.first;
      for (std::size_t d = 0; d < index.size(); ++d) offset += index[d] * place_.strides[d];
      f(static_cast<std::size_t>(offset));
      for (std::size_t d = index.size(); d-- > 0 && ++index[d] == extents_[d];) index[d] = 0;
    }
  }

  Backend* backend_;
  std::vector<Index> extents_;
  Place place_;
  std::vector<T> untouched_;
  typename Backend::template buffer<T> memory_;
};

/// @brief Elements about a mean of each channel's own. @param seed  of the noise.
template <class T>
std::vector<T> law_elements(const std::vector<Index>& extents, std::uint64_t seed) {
  const oracle::Shape shape = shape_of(extents);
  std::vector<T> elements(shape.elements());
  oracle::detail::for_each_element(shape, [&](std::size_t i, std::size_t c) {
    const double centre = 3 * noise(seed + 1, c);
    const double width = 0.25 + std::abs(noise(seed + 2, c));
    elements[i] = element<T>(static_cast<Number>(centre + width * noise(seed, i)));
  });
  return elements;
}

/// @brief An array in a backend's memory.
template <class T, class Backend>
typename Backend::template buffer<T> to_backend(Backend& backend, const std::vector<T>& host) {
  typename Backend::template buffer<T> memory;
  memory.resize(host.size());
  backend.upload(host.data(), static_cast<Index>(host.size()), memory.data());
  return memory;
}

/// @brief An array of a backend's memory, on the host.
template <class T, class Backend>
std::vector<T> from_backend(Backend& backend, const T* from, Index size) {
  std::vector<T> host(static_cast<std::size_t>(size));
  backend.download(from, size, host.data());
  return host;
}

namespace detail {

// Whether sums have the same bits wherever the elements lie: unless a backend says otherwise, by
// `static constexpr bool same_bits_in_any_layout = false`. It then has the same bits whenever it does the same again.
template <class Backend>
constexpr bool same_bits_in_any_layout() {
  if constexpr (requires { Backend::same_bits_in_any_layout; }) return Backend::same_bits_in_any_layout;
  return true;
}

}  // namespace detail

}  // namespace syncbn_test
