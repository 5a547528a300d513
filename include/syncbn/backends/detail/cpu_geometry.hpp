#pragma once

#include <array>
#include <cstring>

#include <syncbn/detail/config.hpp>
#include <syncbn/scalar_kind.hpp>
#include <syncbn/tensor_view.hpp>

// Where the elements of one channel lie, in logical order (n outermost, then the spatial dimensions row by row),
// whatever the strides; and the grid of blocks in which they are summed.

namespace syncbn::inline v0 {
inline namespace SYNCBN_CPU_ISA {
namespace cpu {

// A channel's elements are summed in blocks of this many consecutive ones, blocks in segments, segments in order.
// Functions of the number of elements alone: threads, layout, alignment and caches change nothing.
inline constexpr Index block_elements = 2048;
inline constexpr Index most_segments = 16;

struct Grid {
  Index elements, blocks, segments;

  explicit Grid(Index elements_per_channel) noexcept
      : elements(elements_per_channel),
        blocks((elements_per_channel + block_elements - 1) / block_elements),
        segments(blocks < most_segments ? blocks : most_segments) {}

  // Segment s holds the blocks [first_block(s), first_block(s + 1)); without elements there are none.
  Index first_block(Index segment) const noexcept { return segments == 0 ? 0 : segment * blocks / segments; }
  Index first_element(Index block) const noexcept {
    const Index first = block * block_elements;
    return first < elements ? first : elements;
  }
  Index size_of(Index block) const noexcept { return first_element(block + 1) - first_element(block); }
};

// The common iteration space of `Operands` tensors of the same extents. Neighbouring dimensions that all operands can
// walk as one are merged, so that the innermost run is as long as possible.
template <std::size_t Operands>
struct Geometry {
  static constexpr std::size_t most_dims = static_cast<std::size_t>(max_rank - 1);

  Index channels = 0;
  Index elements = 0;  // per channel
  int dims = 0;        // without the channels; at least 1
  std::array<Index, most_dims> extent{};
  std::array<std::array<Index, Operands>, most_dims> stride{};
  std::array<Index, Operands> channel_stride{};

  template <class First, class... Others>
  explicit Geometry(const First& first, const Others&... others) noexcept {
    channels = first.extent(1);
    channel_stride = {first.stride(1), others.stride(1)...};
    elements = first.extent(0);
    append(first.extent(0), {first.stride(0), others.stride(0)...});
    for (int d = 2; d < first.rank(); ++d) {
      elements *= first.extent(d);
      append(first.extent(d), {first.stride(d), others.stride(d)...});
    }
    if (dims == 0) {
      extent[0] = 1;
      dims = 1;
    }
  }

  Index run_length() const noexcept { return extent[inner()]; }
  Index run_stride(std::size_t operand) const noexcept { return stride[inner()][operand]; }
  bool contiguous_runs() const noexcept {
    bool result = true;
    for (const Index s : stride[inner()]) result = result && s == 1;
    return result;
  }
  bool contiguous_channels() const noexcept {
    bool result = true;
    for (const Index s : channel_stride) result = result && s == 1;
    return result;
  }

  // Whether the channels of one element follow those of the one before without a gap.
  bool dense_rows() const noexcept {
    bool result = contiguous_channels() && dims == 1;
    for (const Index s : stride[0]) result = result && s == channels;
    return result;
  }

 private:
  std::size_t inner() const noexcept { return static_cast<std::size_t>(dims - 1); }

  void append(Index size, std::array<Index, Operands> strides) noexcept {
    if (size == 1) return;
    bool merges = dims > 0;
    for (std::size_t k = 0; k < Operands && merges; ++k) merges = stride[inner()][k] == size * strides[k];
    if (!merges) extent[static_cast<std::size_t>(dims++)] = 1;
    extent[inner()] *= size;
    stride[inner()] = strides;
  }
};

// A place in a channel that has elements: the offset of each operand there, and how far the innermost run still goes.
template <std::size_t Operands>
class Cursor {
 public:
  Cursor(const Geometry<Operands>& geometry, Index element) noexcept : geometry_(&geometry) {
    for (int d = geometry.dims - 1; d >= 0; --d) {
      const auto at = static_cast<std::size_t>(d);
      index_[at] = element % geometry.extent[at];
      element /= geometry.extent[at];
      for (std::size_t k = 0; k < Operands; ++k) offset_[k] += index_[at] * geometry.stride[at][k];
    }
  }

  Index offset(std::size_t operand) const noexcept { return offset_[operand]; }
  Index run() const noexcept { return geometry_->run_length() - index_[inner()]; }
  Index stride(std::size_t operand) const noexcept { return geometry_->run_stride(operand); }

  // count <= run(). One past the last element of the channel, offsets mean nothing.
  void advance(Index count) noexcept {
    std::size_t d = inner();
    index_[d] += count;
    for (std::size_t k = 0; k < Operands; ++k) offset_[k] += count * geometry_->stride[d][k];
    while (index_[d] == geometry_->extent[d] && d > 0) {
      for (std::size_t k = 0; k < Operands; ++k) {
        offset_[k] += geometry_->stride[d - 1][k] - index_[d] * geometry_->stride[d][k];
      }
      index_[d] = 0;
      ++index_[--d];
    }
  }

 private:
  std::size_t inner() const noexcept { return static_cast<std::size_t>(geometry_->dims - 1); }

  const Geometry<Operands>* geometry_;
  std::array<Index, Operands> offset_{};
  std::array<Index, Geometry<Operands>::most_dims> index_{};
};

// `count` elements of one operand from the cursor on: in place where they are neighbours, otherwise gathered into
// `buffer`.
template <class Storage, std::size_t Operands>
const Storage* fetch(const Storage* channel, Cursor<Operands> cursor, const Geometry<Operands>& geometry,
                     std::size_t operand, Index count, Storage* buffer) noexcept {
  const Index stride = geometry.run_stride(operand);
  if (stride == 1 && cursor.run() >= count) return channel + cursor.offset(operand);
  for (Index done = 0; done < count;) {
    const Index run = cursor.run() < count - done ? cursor.run() : count - done;
    const Storage* from = channel + cursor.offset(operand);
    if (stride == 1) {
      std::memcpy(buffer + done, from, static_cast<std::size_t>(run) * sizeof(Storage));
    } else {
      // Bytes, since the memory may hold a foreign 16-bit type.
      for (Index i = 0; i < run; ++i) std::memcpy(buffer + done + i, from + i * stride, sizeof(Storage));
    }
    cursor.advance(run);
    done += run;
  }
  return buffer;
}

}  // namespace cpu
}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0
