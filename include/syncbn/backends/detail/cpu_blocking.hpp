#pragma once

#include <algorithm>

#include <syncbn/backends/detail/cpu_geometry.hpp>

// Every decision that is taken for the sake of caches: what a task is, how results go to memory, what is asked for early.
// They change the time of a pass, never its bits.

namespace syncbn::inline v0 {
inline namespace SYNCBN_CPU_ISA {
namespace cpu {

// What the last cache keeps of a tensor.
inline constexpr Index cached_bytes = Index{16} << 20;

// Whether the kernels for neighbouring channels are the right ones.
template <std::size_t Operands>
bool in_columns(const Geometry<Operands>& geometry) noexcept {
  return geometry.contiguous_channels() && !geometry.contiguous_runs();
}

// Channels of a slab where they are neighbours: many, so that rows are read as they lie in memory, where there are segments
// enough to share; but few where the lines that one slab leaves out of a short row are still in a cache for the next.
template <class Storage>
inline constexpr Index most_slab_channels = std::min<Index>(2048 / static_cast<Index>(sizeof(Storage)), 512);
template <class Storage, std::size_t Operands>
Index slab_channels(const Geometry<Operands>& geometry, const Grid& grid) noexcept {
  constexpr Index enough = 4;
  constexpr Index few = 256 / static_cast<Index>(sizeof(Storage));
  const bool short_rows = geometry.channels * static_cast<Index>(sizeof(Storage)) <= 1024;
  return grid.segments < enough || (Operands == 1 && short_rows) ? few : most_slab_channels<Storage>;
}

// Whether a task does all steps of whole channels: where there are enough of them to share, and no operand has elements of
// a channel scattered among those of others.
template <std::size_t Operands>
bool by_channels(const Geometry<Operands>& geometry, const Grid& grid) noexcept {
  constexpr Index enough = 8;
  if (geometry.elements == 0 || geometry.channels == 0) return false;
  bool scattered = false;
  for (std::size_t k = 0; k < Operands; ++k) {
    scattered = scattered || (geometry.channel_stride[k] == 1 && geometry.run_stride(k) != 1);
  }
  return !scattered && (geometry.channels >= enough || grid.segments == 1);
}

// How many: what a part of the second cache holds. More than one, since the pieces of memory that a task reads and
// writes are the longer, where a channel has short ones.
inline constexpr Index most_channels_at_once = 32;
template <class Storage>
Index channels_at_once(const Grid& grid) noexcept {
  constexpr Index bytes_at_once = Index{128} << 10;
  const Index bytes = std::max<Index>(1, grid.elements * static_cast<Index>(sizeof(Storage)));
  return std::clamp<Index>(bytes_at_once / bytes, 1, most_channels_at_once);
}

// Runs of less than a page end before the processor has seen that they will go on, each in a page of its own. Where no cache
// holds the tensor, what lies this many channels further in memory is asked for; 0: nothing.
template <class Storage, std::size_t Operands>
Index channels_asked_for_early(const Geometry<Operands>& geometry) noexcept {
  constexpr Index page = 4096;
  constexpr Index bytes_early = 1024;
  const Index run_bytes = geometry.run_length() * static_cast<Index>(sizeof(Storage));
  const Index all_bytes = geometry.channels * geometry.elements * static_cast<Index>(sizeof(Storage));
  return run_bytes < page && all_bytes > cached_bytes ? (bytes_early + run_bytes - 1) / run_bytes : 0;
}

// Runs of less than this cannot be written past the caches one by one; several channels are put together.
template <class Storage, std::size_t Operands>
bool has_short_runs(const Geometry<Operands>& geometry) noexcept {
  return geometry.run_length() * static_cast<Index>(sizeof(Storage)) < 2048;
}

// Where results are written. Past the caches is for outputs that are no inputs.
enum class Store { cached, streamed };

// Outputs that no cache keeps until they are read again go past them, but not those that are inputs, which the caches
// have anyway. The last cache may hold more than this; but what is written into it drives out what others will read, which
// a loop over one pass alone does not show.
template <class Out, class... In>
Store store_for(const Out& out, const In&... in) noexcept {
  constexpr Index fewest_bytes = Index{4} << 20;
  const bool in_place = ((out.data() == in.data()) || ...);
  const Index bytes = out.size() * static_cast<Index>(sizeof(typename Out::value_type));
  return in_place || bytes < fewest_bytes ? Store::cached : Store::streamed;
}

}  // namespace cpu
}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0
