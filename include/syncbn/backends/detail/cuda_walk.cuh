#pragma once

#include <cuda_runtime.h>

#include <syncbn/backends/detail/cuda_memory.cuh>
#include <syncbn/backends/detail/cuda_shape.hpp>

// What one thread of a block works on: every so-many-th unit of its part.

namespace syncbn::inline v0::cuda {

// Which block of the grid this is: one after the other over both dimensions, since one alone holds 2^31 - 1.
__device__ __forceinline__ Index block_index() {
  return static_cast<Index>(blockIdx.y) * gridDim.x + static_cast<Index>(blockIdx.x);
}

// Where the elements of a unit are, and which of them exist: bit j of the mask for element j.
template <int operands>
struct Unit {
  Index at[operands];
  unsigned mask;
};

__device__ __forceinline__ Index divide(Index n, const Divider& by) {
  const auto u = static_cast<unsigned long long>(n);
  const unsigned long long high = __umul64hi(u, by.multiplier);
  return static_cast<Index>((high + ((u - high) >> by.first_shift)) >> by.second_shift);
}

// Which slab and part of it a block works on.
struct BlockPlace {
  Index slab, part;
  __device__ __forceinline__ BlockPlace(const Shape& shape, Index block)
      : slab(divide(block, shape.by_parts)), part(block - slab * shape.parts) {}
};

template <int operands, int width, bool columns>
class Walk {
 public:
  static constexpr int slots = columns ? width : 1;  // channels of a unit
  static constexpr unsigned whole = (1U << width) - 1;

  __device__ __forceinline__ Walk(const Field<operands>& field, const Shape& shape, BlockPlace place)
      : field_(field), shape_(shape) {
    const int thread = static_cast<int>(threadIdx.x);
    const int row = thread >> shape.lane_bits;
    first_channel_ =
        columns ? place.slab * shape.channels_of_slab() + (thread & (shape.lanes() - 1)) * width : place.slab;
    const Index first = place.part * shape.units_of_part;
    const Index units = end_of(place.part) - first;
    left_ = units > row ? static_cast<int>((units - row + shape.rows() - 1) >> shape.row_bits()) : 0;
    line_ = divide(first + row, field.by_units_of_line);
    of_line_ = first + row - line_ * field.units_of_line;
    place_unit();
    const Index channels = columns ? field.channels - first_channel_ : 0;
    channels_ = channels >= width ? whole : channels <= 0 ? 0U : (1U << static_cast<int>(channels)) - 1;
  }

  __device__ __forceinline__ bool more() const { return left_ > 0; }
  // The unit that comes next; one without elements where there is none.
  __device__ __forceinline__ Unit<operands> take() {
    Unit<operands> unit;
#pragma unroll
    for (int k = 0; k < operands; ++k) unit.at[k] = at_[k];
    unit.mask = columns ? channels_ : whole;
    if constexpr (!columns) {
      // A line's first unit begins before it, at a boundary of words.
      const Index back = field_.shifts ? (at_[0] + field_.beyond) & (width - 1) : 0;
#pragma unroll
      for (int k = 0; k < operands; ++k) unit.at[k] -= back * field_.step[k];
      const Index first = of_line_ * width - back;
      if (first < 0 || first > field_.run - width) unit.mask = existing(first);
    }
    if (!more()) unit.mask = 0;
    advance();
    return unit;
  }

  // Values of each channel in a part.
  __device__ __forceinline__ double count(Index part) const {
    const Index first = part * shape_.units_of_part;
    if constexpr (columns) return static_cast<double>(end_of(part) - first);
    return static_cast<double>(elements_before(end_of(part)) - elements_before(first));
  }
  // The first of this thread's channels.
  __device__ __forceinline__ Index first_channel() const { return first_channel_; }

 private:
  static constexpr bool is_deep = columns && width == 1;  // may have lines of more than one dimension

  __device__ __forceinline__ void advance() {
    --left_;
    of_line_ += shape_.row_units;
    const bool wraps = of_line_ >= field_.units_of_line;
    if (wraps) of_line_ -= field_.units_of_line;
    if constexpr (is_deep) {
      line_ += shape_.row_lines + (wraps ? 1 : 0);
      if (field_.dims > 1) return place_unit();
    }
#pragma unroll
    for (int k = 0; k < operands; ++k) at_[k] += field_.advance[k] + (wraps ? field_.wrap[k] : 0);
  }
  // Where the unit begins, were all units of a line whole.
  __device__ __forceinline__ void place_unit() {
#pragma unroll
    for (int k = 0; k < operands; ++k) {
      at_[k] = first_channel_ * field_.channel_stride[k] + of_line_ * field_.unit_stride[k];
    }
    Index line = line_;
    if constexpr (is_deep) {
#pragma unroll 1
      for (int d = field_.dims - 1; d > 0; --d) {
        const Index rest = divide(line, field_.by_extent[d]);
#pragma unroll
        for (int k = 0; k < operands; ++k) at_[k] += (line - rest * field_.extent[d]) * field_.stride[k][d];
        line = rest;
      }
    }
#pragma unroll
    for (int k = 0; k < operands; ++k) at_[k] += line * field_.stride[k][0];
  }
  // Elements of a unit that are in its line, where it begins `first` elements after the line does, or before.
  __device__ __forceinline__ unsigned existing(Index first) const {
    const Index end = field_.run - first;
    const unsigned below_end = end >= width ? whole : end <= 0 ? 0U : (1U << static_cast<int>(end)) - 1;
    const unsigned below_first = first >= 0 ? 0U : (1U << static_cast<int>(-first)) - 1;
    return below_end & ~below_first;
  }
  __device__ __forceinline__ Index end_of(Index part) const {
    const Index units = field_.lines * field_.units_of_line;
    const Index end = (part + 1) * shape_.units_of_part;
    return end < units ? end : units;
  }
  __device__ __forceinline__ Index elements_before(Index unit) const {
    const Index line = divide(unit, field_.by_units_of_line);
    if (line >= field_.lines) return field_.elements;
    const Index line_at = first_channel_ * field_.channel_stride[0] + line * field_.stride[0][0];
    const Index back = field_.shifts ? (line_at + field_.beyond) & (width - 1) : 0;
    const Index within = (unit - line * field_.units_of_line) * width - back;
    return line * field_.run + (within < 0 ? 0 : within > field_.run ? field_.run : within);
  }

  const Field<operands>& field_;
  const Shape& shape_;
  Index first_channel_;
  int left_;           // units of this thread from the next one on
  unsigned channels_;  // columns: which of a unit exist
  Index line_, of_line_;
  Index at_[operands];
};

// A unit of one operand; elements that do not exist are zeros.
template <int width, class Storage>
__device__ __forceinline__ Pack<Storage, width> load_unit(const Storage* base, Index at, unsigned mask, Index step,
                                                          bool has_words) {
  if (has_words && mask == (1U << width) - 1) return load_word<width>(base + at);
  Pack<Storage, width> pack;
#pragma unroll
  for (int j = 0; j < width; ++j) {
    if ((mask >> j & 1U) != 0) pack.set(j, load_word<1, (width > 1)>(base + (at + j * step)).element(0));
  }
  return pack;
}
template <int width, class Storage>
__device__ __forceinline__ void store_unit(Storage* base, Index at, unsigned mask, Index step, bool has_words,
                                           const Pack<Storage, width>& pack, bool streams) {
  if (has_words && mask == (1U << width) - 1) return store_word(base + at, pack, streams);
#pragma unroll
  for (int j = 0; j < width; ++j) {
    if ((mask >> j & 1U) == 0) continue;
    Pack<Storage, 1> one;
    one.set(0, pack.element(j));
    store_word(base + (at + j * step), one, streams);
  }
}

}  // namespace syncbn::inline v0::cuda
