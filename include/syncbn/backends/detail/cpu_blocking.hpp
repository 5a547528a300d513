#pragma once

#include <algorithm>

#include <syncbn/backends/detail/cpu_columns.hpp>
#include <syncbn/backends/detail/cpu_map.hpp>

// What a task of the processor's passes is: which channels and segments it takes, and how its results go to memory. It
// changes the time of a pass, never its bits.

namespace syncbn::inline v0 {
inline namespace SYNCBN_CPU_ISA {
namespace cpu {

// Whether the kernels for neighbouring channels are the right ones.
template <std::size_t Operands>
bool in_columns(const Geometry<Operands>& geometry) noexcept {
  return geometry.contiguous_channels() && !geometry.contiguous_runs();
}

// Whether a task does all steps of whole channels: where there are enough of them to share, and elements of a channel are
// not scattered.
template <std::size_t Operands>
bool by_channels(const Geometry<Operands>& geometry, const Grid& grid) noexcept {
  constexpr Index enough = 8;
  if (geometry.elements == 0 || geometry.channels == 0) return false;
  return !in_columns(geometry) && (geometry.channels >= enough || grid.segments == 1);
}

// How many: what a part of the second cache holds. More than one, since the pieces of memory that a task reads and
// writes are the longer, where a channel has short ones.
template <class Storage>
Index channels_at_once(const Grid& grid) noexcept {
  constexpr Index bytes_at_once = Index{128} << 10;
  const Index bytes = grid.elements * static_cast<Index>(sizeof(Storage));
  return std::clamp<Index>(bytes_at_once / bytes, 1, most_channels_at_once);
}

// Runs of less than this cannot be written past the caches one by one; several channels are put together.
template <class Storage, std::size_t Operands>
bool has_short_runs(const Geometry<Operands>& geometry) noexcept {
  return geometry.run_length() * static_cast<Index>(sizeof(Storage)) < 2048;
}

// Outputs that no cache keeps until they are read again go past them, but not those that are inputs, which the caches
// have anyway.
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
