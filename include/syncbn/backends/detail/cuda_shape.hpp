#pragma once

#include <algorithm>
#include <cstddef>

#include <syncbn/backends/detail/cuda_field.hpp>
#include <syncbn/detail/config.hpp>

// How a field is shared out among blocks and threads: functions of the field and the device alone.

namespace syncbn::inline v0::cuda {

// What that depends on.
struct Device {
  int multiprocessors = 1;
  std::size_t shared_bytes = 0;  // of a block, by opting in
  std::size_t cache_bytes = 0;   // of the second cache
};

inline constexpr int warp_size = 32;
inline constexpr int most_threads = 512;  // of a block: each may have 128 registers
inline constexpr Index most_parts = 1024;
inline constexpr Index most_parts_of_thread = 64;  // that it merges
// Units of each input that a thread has in registers, its loads in flight: fewer where a unit becomes eight numbers, and
// beside the sums of four channels.
template <int inputs, int width, bool columns>
inline constexpr int units_in_registers = (width < (columns ? 4 : 8) ? 8 : 4) / inputs;
// Half of that beside coefficients of double, where units are more than two numbers.
template <class Coefficients, int width>
inline constexpr int share_of_registers = sizeof(Coefficients{}.scale) > sizeof(float) && width > 2 ? 2 : 1;

// A block works on one part of one slab: a channel, or (columns) lanes * width channels that are neighbours. Its threads
// are rows of `lanes`, each of which takes the part's units in turn.
struct Shape {
  bool is_columns = false;
  int width = 1;  // of a unit
  int lane_bits = 0;
  int threads = warp_size;  // a power of two, at least one row
  int thread_bits = 5;
  Index slabs = 0;
  Index parts = 1;  // of a slab
  Divider by_parts;
  Index units_of_part = 0;
  Index row_lines = 0, row_units = 0;  // from a thread's unit to its next one
  int units_in_shared = 0;             // of each input and thread: kept on chip beside those in registers
  bool streams = false;                // results should leave the second cache alone

  SYNCBN_HOST_DEVICE int lanes() const noexcept { return 1 << lane_bits; }
  SYNCBN_HOST_DEVICE int rows() const noexcept { return threads >> lane_bits; }
  SYNCBN_HOST_DEVICE int row_bits() const noexcept { return thread_bits - lane_bits; }
  SYNCBN_HOST_DEVICE int warps() const noexcept { return threads / warp_size; }
  SYNCBN_HOST_DEVICE int channels_of_slab() const noexcept { return is_columns ? width << lane_bits : 1; }
};

inline Index ceil_div(Index a, Index b) noexcept { return (a + b - 1) / b; }

// The smallest power of two that is not less, within limits that are powers of two.
inline int power_of_two(Index least, int low, int high) noexcept {
  int value = low;
  while (value < least && value < high) value *= 2;
  return value;
}

// Slabs of columns are as wide as a line of the cache; many rows fill the block.
template <int operands>
Shape slabs_of(const Field<operands>& field, int bytes_of_element) noexcept {
  Shape shape;
  shape.is_columns = field.is_columns;
  shape.width = field.width;
  if (field.channels_are_near) {
    const int most = field.width == 1 ? warp_size : 128 / (field.width * bytes_of_element);
    const int lanes = power_of_two(ceil_div(field.channels, field.width), 1, most);
    while (shape.lanes() < lanes) ++shape.lane_bits;
  }
  shape.slabs = ceil_div(field.channels, shape.channels_of_slab());
  return shape;
}

template <int operands>
void share_out(Shape& shape, Field<operands>& field, int threads, Index parts) noexcept {
  shape.threads = threads;
  shape.thread_bits = 0;
  while (1 << shape.thread_bits < threads) ++shape.thread_bits;
  shape.units_of_part = std::max(ceil_div(field.units(), parts), Index{1});
  shape.parts = std::max(ceil_div(field.units(), shape.units_of_part), Index{1});
  shape.by_parts = Divider(shape.parts);
  shape.row_lines = shape.rows() / field.units_of_line;
  shape.row_units = shape.rows() % field.units_of_line;
  for (int k = 0; k < operands; ++k) {
    const Index line = field.dims == 0 ? 0 : field.stride[k][0];
    field.advance[k] = shape.row_lines * line + shape.row_units * field.unit_stride[k];
    field.wrap[k] = line - field.units_of_line * field.unit_stride[k];
  }
}

inline constexpr int most_channels_of_slab = 64;
inline Index blocks_of_sums(const Device& device) noexcept { return Index{4} * device.multiprocessors; }

// For how many sums of parts there is always room: whatever tensors of these channels come, so that memory that a captured
// graph uses stays where it is.
inline Index room_for_parts(Index channels, const Device& device) noexcept {
  return (blocks_of_sums(device) + 1) * most_channels_of_slab + channels;
}

// Sums alone: enough parts to keep the device busy, each long enough to be worth its end.
template <int operands>
Shape shape_of_sums(Field<operands>& field, int bytes_of_element, const Device& device) noexcept {
  constexpr int threads = 256;
  Shape shape = slabs_of(field, bytes_of_element);
  const Index most = field.units() / (Index{threads >> shape.lane_bits} * units_in_registers<operands, 1, true>);
  const Index wanted = ceil_div(blocks_of_sums(device), shape.slabs);
  const Index mergeable = std::min(most_parts, most_parts_of_thread * (threads / shape.channels_of_slab()));
  share_out(shape, field, threads, std::clamp(std::min(most, wanted), Index{1}, mergeable));
  return shape;
}

// An elementwise pass: a block looks up its channels' coefficients first, which some units have to be worth.
template <int operands>
Shape shape_of_map(Field<operands>& field, int bytes_of_element, const Device& device) noexcept {
  Shape shape = slabs_of(field, bytes_of_element);
  const Index units = field.units() << shape.lane_bits;
  const int threads = power_of_two(ceil_div(units, 4), std::max(warp_size, shape.lanes()), 256);
  const Index most = ceil_div(units, threads);
  const Index wanted = ceil_div(Index{4} * device.multiprocessors, shape.slabs);
  share_out(shape, field, threads, std::clamp(wanted, ceil_div(most, 8), std::max(most, Index{1})));
  const Index bytes = field.channels * field.elements * bytes_of_element;
  shape.streams = static_cast<std::size_t>(bytes) > device.cache_bytes / 2;
  return shape;
}

// Memory of a block for sums: see cuda_sums.cuh.
template <class Coefficients>
std::size_t scratch_bytes(const Shape& shape, bool merges) noexcept {
  const auto channels = static_cast<std::size_t>(shape.channels_of_slab());
  const std::size_t sums = channels * (static_cast<std::size_t>(shape.warps()) * 2 + 1) * sizeof(double);
  const std::size_t parts = merges ? static_cast<std::size_t>(shape.threads) * 2 * sizeof(double) : 0;
  const std::size_t bytes = std::max({sums, parts, channels * sizeof(Coefficients)});
  return (bytes + 15) / 16 * 16;
}

// Sums and the elementwise pass in one, for slabs that a block can keep in its registers and its shared memory. Empty
// tensors too. Returns false if they are too large, or so few that they would leave most of the device idle.
template <class Coefficients, int operands>
bool shape_on_chip(Field<operands>& field, int bytes_of_element, const Device& device, Shape& shape) noexcept {
  constexpr int inputs = operands - 1;
  shape = slabs_of(field, bytes_of_element);
  const bool few_units = field.width >= (field.is_columns ? 4 : 8);
  const int share = field.width > 2 ? share_of_registers<Coefficients, 8> : 1;
  const int in_registers =
      (few_units ? units_in_registers<inputs, 8, true> : units_in_registers<inputs, 1, true>) / share;
  const Index units = field.units() << shape.lane_bits;
  // Few slabs: more threads for each of them.
  const bool few = shape.slabs < 2 * device.multiprocessors;
  const int threads = power_of_two(ceil_div(units, std::max(few ? in_registers / 2 : in_registers, 1)),
                                   std::max(warp_size, shape.channels_of_slab()), most_threads);
  share_out(shape, field, threads, 1);
  shape.streams = false;
  const Index rest = ceil_div(units, threads) - in_registers;
  if (rest <= 0) return true;
  const std::size_t scratch = scratch_bytes<Coefficients>(shape, false);
  const std::size_t unit = static_cast<std::size_t>(threads * inputs * std::max(field.width * bytes_of_element, 4));
  if (scratch + static_cast<std::size_t>(rest) * unit > device.shared_bytes) return false;
  shape.units_in_shared = static_cast<int>(rest);
  return 2 * shape.slabs >= device.multiprocessors;
}

}  // namespace syncbn::inline v0::cuda
