#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <type_traits>

#include <Eigen/Core>

#include <syncbn/backends/detail/cpu_geometry.hpp>
#include <syncbn/backends/executors.hpp>

// Every decision that is taken for the sake of caches: what a task is, how results go to memory, what is asked for early.
// They change the time of a pass, never its bits.

namespace syncbn::inline v0 {
inline namespace SYNCBN_CPU_ISA {
namespace cpu {

// What a core has to itself, as far as Eigen has found out or was told (setCpuCacheSizes).
inline Index second_cache_bytes() noexcept {
  return std::clamp<Index>(Eigen::l2CacheSize(), Index{256} << 10, Index{4} << 20);
}

// Of one operand.
template <class Storage, std::size_t Operands>
Index bytes_of(const Geometry<Operands>& geometry) noexcept {
  return geometry.channels * geometry.elements * static_cast<Index>(sizeof(Storage));
}

// Whether the kernels for neighbouring channels are the right ones.
template <std::size_t Operands>
bool in_columns(const Geometry<Operands>& geometry) noexcept {
  return geometry.contiguous_channels() && !geometry.contiguous_runs();
}

// Whether a pass over a tensor of this size asks for what it reads next: where the second cache cannot have all.
inline bool asks_ahead(Index bytes) noexcept { return bytes >= second_cache_bytes() / 2; }

// Rows of a tile, where channels are neighbours: with those that are asked for meanwhile, few enough for the pages that the
// processor has at hand.
inline constexpr Index most_tile_rows = 64;
template <std::size_t Operands>
Index tile_rows(bool asks_ahead) noexcept {
  return asks_ahead ? most_tile_rows / static_cast<Index>(Operands) : most_tile_rows;
}

// Channels of a slab where they are neighbours: many, so that rows are read as they lie in memory; but fewer where rows are
// so few that their sums are more than they, and where threads would have too few segments to share.
template <class Storage>
inline constexpr Index most_slab_channels = std::min<Index>(2048 / static_cast<Index>(sizeof(Storage)), 512);
template <class Storage, class Executor>
Index slab_channels(const Grid& grid) noexcept {
  constexpr Index enough = 4;
  constexpr Index few = 256 / static_cast<Index>(sizeof(Storage));
  const bool is_serial = std::is_same_v<Executor, SerialExecutor>;
  const bool many_rows = grid.elements >= most_tile_rows;
  return many_rows && (is_serial || grid.segments >= enough) ? most_slab_channels<Storage> : few;
}

// Whether a task does all steps of whole channels: where there are enough of them to share, and no operand has elements of
// a channel scattered among those of others.
template <std::size_t Operands>
bool by_channels(const Geometry<Operands>& geometry, const Grid& grid) noexcept {
  constexpr Index enough = 8;
  if (geometry.elements == 0 || geometry.channels == 0) return false;
  bool scattered = false;
  for (std::size_t k = 0; k < Operands; ++k) {
    const Index channel_step = std::abs(geometry.channel_stride[k]);
    scattered = scattered || (channel_step > 0 && channel_step < std::abs(geometry.run_stride(k)));
  }
  return !scattered && (geometry.channels >= enough || grid.segments == 1);
}

// Blocks that are summed side by side at most, of one channel or of several.
inline constexpr Index most_blocks_at_once = 4;
inline bool has_blocks_for_all(const Grid& grid) noexcept {
  return grid.elements >= most_blocks_at_once * block_elements;
}

// Runs of less than this cannot be written past the caches one by one; several channels are put together.
template <class Storage, std::size_t Operands>
bool has_short_runs(const Geometry<Operands>& geometry) noexcept {
  return geometry.run_length() * static_cast<Index>(sizeof(Storage)) < 2048;
}

// Channels that are taken together: what a part of the second cache holds. More than one, since the pieces of memory that
// are read and written are the longer, where a channel has short ones, and whole lines if a few channels more make them
// so; none that would be left over to be summed alone.
inline constexpr Index most_channels_at_once = 32;
template <class Storage, std::size_t Operands>
Index channels_at_once(const Geometry<Operands>& geometry, const Grid& grid) noexcept {
  constexpr auto size = static_cast<Index>(sizeof(Storage));
  const Index bytes = std::max<Index>(1, grid.elements * size);
  const Index fitting = std::clamp<Index>(second_cache_bytes() / 16 / bytes, 1, most_channels_at_once);
  const Index of_whole_lines = 64 / std::gcd(64, geometry.run_length() * size);
  if (has_short_runs<Storage>(geometry) && of_whole_lines <= most_channels_at_once && of_whole_lines <= 4 * fitting) {
    return std::max(fitting / of_whole_lines, Index{1}) * of_whole_lines;
  }
  if (fitting < most_blocks_at_once) return has_blocks_for_all(grid) ? fitting : most_blocks_at_once;
  return fitting / most_blocks_at_once * most_blocks_at_once;
}

// Elementwise tasks that are enough for threads to share.
inline constexpr Index enough_tasks = 64;

// Into how many parts the rows of neighbouring channels are mapped. Each begins at a multiple of rows_at_once(), so that it
// begins with a line if the tensor does; not so where rows are long.
inline Index rows_at_once(Index row_bytes) noexcept { return row_bytes >= 4096 ? 1 : 32; }
inline Index first_row_of_part(Index part, Index parts, Index rows, Index row_bytes) noexcept {
  const Index unit = rows_at_once(row_bytes);
  return part == parts ? rows : rows / unit * part / parts * unit;
}
template <class Storage, class Executor, std::size_t Operands>
Index mapped_parts(const Geometry<Operands>& geometry, const Grid& grid) noexcept {
  constexpr Index fewest_bytes = Index{64} << 10;
  if (std::is_same_v<Executor, SerialExecutor>) return grid.segments;
  const Index row_bytes = geometry.channels * static_cast<Index>(sizeof(Storage));
  const Index most = std::min(grid.elements / rows_at_once(row_bytes), bytes_of<Storage>(geometry) / fewest_bytes);
  return std::max(grid.segments, std::min(most, enough_tasks));
}

// Channels whose segment is mapped by one task.
template <class Executor>
Index mapped_channels_at_once(Index channels, const Grid& grid) noexcept {
  if (std::is_same_v<Executor, SerialExecutor>) return most_channels_at_once;
  return std::clamp<Index>(channels * grid.segments / enough_tasks, 1, most_channels_at_once);
}

// Whether blocks of several channels are summed side by side rather than those of one: where it has too few, or where the
// caches hold the tensor, so that it does not matter in which order it is read.
template <class Storage, std::size_t Operands>
bool channels_side_by_side(const Geometry<Operands>& geometry, const Grid& grid) noexcept {
  const bool is_cached = bytes_of<Storage>(geometry) <= 2 * second_cache_bytes();
  return is_cached ? grid.blocks < 4 * most_blocks_at_once : !has_blocks_for_all(grid);
}

// The segment or part that is mapped by a task. One after the other, from the last to the first: what was summed last is in
// a cache. Threads find what they have summed themselves.
template <class Executor>
Index segment_of(Index task, Index segments) noexcept {
  return std::is_same_v<Executor, SerialExecutor> ? segments - 1 - task : task;
}

// A walk through memory asks for lines this far ahead of itself, into the second cache: the processor's own prefetchers
// look less far ahead, and none beyond the end of a page. A sum does so in each of the blocks that it walks side by side.
inline constexpr Index bytes_ahead_of_walk = 4096;
// And so far ahead for lines of results that the caches keep: a line is read before it is written.
inline constexpr Index bytes_ahead_of_results = 512;

// How an elementwise pass reaches memory.
struct Access {
  bool past_caches = false;  // for outputs that are no inputs
  Index bytes_ahead = 0;     // where inputs are asked for; 0: nowhere
};

// Outputs that no cache keeps until they are read again go past them, but not those that are inputs, which the caches
// have anyway. The last cache may hold more than this; but what is written into it drives out what others will read, which
// a loop over one pass alone does not show.
template <class Out, class... In>
Access access_to(const Out& out, const In&... in) noexcept {
  const Index fewest_bytes = std::max(Index{4} << 20, 2 * second_cache_bytes());
  constexpr std::size_t size = sizeof(typename Out::value_type);
  const bool in_place = ((out.data() == in.data()) || ...);
  // Foreign 16-bit types may lie anywhere.
  const bool lies_apart = reinterpret_cast<std::uintptr_t>(out.data()) % size != 0;
  const Index bytes = out.size() * static_cast<Index>(size);
  return {!in_place && !lies_apart && bytes >= fewest_bytes, asks_ahead(bytes) ? bytes_ahead_of_walk : 0};
}

// Whether the second cache does not hold all of a channel that was just summed: it has what was summed last, so that the
// channel is then mapped from its last segment to its first.
template <class Storage, std::size_t Operands>
bool outgrows_cache(const Geometry<Operands>& geometry, const Grid& grid) noexcept {
  constexpr auto inputs = static_cast<Index>(Operands - 1);
  const Index bytes = grid.elements * static_cast<Index>(sizeof(Storage)) * inputs;
  return bytes > second_cache_bytes() / 2 && !has_short_runs<Storage>(geometry);
}

// How far ahead inputs are asked for by a pass over channels that were just summed. The caches have theirs; but those of the
// channels that come next can be on their way while results are written, if there is room for both. Smaller
// tensors lose by it (measured: 25 MB lose 10 %, 50 MB gain up to 20 %).
template <class Storage, std::size_t Operands>
Index bytes_to_next_channels(const Geometry<Operands>& geometry, const Grid& grid) noexcept {
  constexpr Index fewest_bytes = Index{32} << 20;  // of a tensor
  const Index room = second_cache_bytes() / 16 * 5;
  constexpr auto size = static_cast<Index>(sizeof(Storage));
  constexpr auto inputs = static_cast<Index>(Operands - 1);
  const Index at_once = channels_at_once<Storage>(geometry, grid);
  const bool gains = bytes_of<Storage>(geometry) > fewest_bytes && at_once * geometry.elements * size * inputs <= room;
  return gains && !has_short_runs<Storage>(geometry) ? at_once * geometry.channel_stride[0] * size : 0;
}

}  // namespace cpu
}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0
