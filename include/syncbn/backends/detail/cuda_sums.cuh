#pragma once

#include <cuda_runtime.h>

#include <syncbn/backends/detail/cuda_parts.cuh>
#include <syncbn/backends/detail/cuda_walk.cuh>
#include <syncbn/concepts.hpp>
#include <syncbn/moments.hpp>

// Sums of a channel's values in double, always in the same order: a thread's own values, the threads of a warp as a tree,
// the warps of a block in turn, the parts of a channel as a tree (docs/numerics.md).

namespace syncbn::inline v0::cuda {

// Over the rows of a block: cells[channel of the slab] for every thread, until somebody writes there again. All threads
// call it, with `slots` channels each. cells: room for channels_of_slab() of each warp.
template <int slots>
__device__ __forceinline__ void sum_rows(TwoSums (&sums)[slots], const Shape& shape, TwoSums* cells) {
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % warp_size;
#pragma unroll
  for (int j = 0; j < slots; ++j) {
    for (int distance = warp_size / 2; distance >= shape.lanes(); distance /= 2) {
      sums[j] = sums[j] + TwoSums{__shfl_xor_sync(0xffffffffU, sums[j].first, distance),
                                  __shfl_xor_sync(0xffffffffU, sums[j].second, distance)};
    }
  }
  const int channels = slots << shape.lane_bits;
  if (lane < shape.lanes()) {
#pragma unroll
    for (int j = 0; j < slots; ++j) cells[thread / warp_size * channels + lane * slots + j] = sums[j];
  }
  __syncthreads();
  for (int i = thread; i < channels; i += shape.threads) {
    TwoSums total = cells[i];
    for (int warp = 1; warp < shape.warps(); ++warp) total = total + cells[warp * channels + i];
    cells[i] = total;
  }
  __syncthreads();
}

// ---- What is summed --------------------------------------------------------------------------------------------------

// Moments of x, about the mean of the values that the block has loaded first: of all, where it keeps all. With k such
// values of b, the sum of squares about it is at most 1 + b/k times M2.
template <class T>
struct MomentsPass {
  using Storage = T;
  static constexpr int inputs = 1;
  static constexpr bool samples = true;

  const Storage* input[inputs];

  __device__ __forceinline__ double centre(Index) const { return 0; }
  static __device__ __forceinline__ void add(TwoSums& sums, const double (&value)[inputs], double centre) {
    const double d = value[0] - centre;
    sums.first += d;
    sums.second += d * d;
  }
  static __device__ __forceinline__ ChannelMoments result(double count, TwoSums sums, double centre) {
    if (count == 0) return {};
    return from_centred_sums(count, centre, {sums.first, sums.second});
  }
  // With the sums of parts, about the mean of the first of them: at most 1 + parts times M2.
  static __device__ __forceinline__ void add_part(TwoSums& sums, ChannelMoments part, double centre) {
    const ChannelSums added = to_centred_sums(part, centre);
    sums = sums + TwoSums{added.s1, added.s2};
  }
};

// The sums of the gradient, in place of mean and M2.
template <class T>
struct GradientPass {
  using Storage = T;
  static constexpr int inputs = 2;
  static constexpr bool samples = false;

  const Storage* input[inputs];  // dy, x
  const double* mean;

  __device__ __forceinline__ double centre(Index channel) const { return mean[channel]; }
  static __device__ __forceinline__ void add(TwoSums& sums, const double (&value)[inputs], double centre) {
    sums.first += value[0];
    sums.second += value[0] * (value[1] - centre);
  }
  static __device__ __forceinline__ ChannelMoments result(double count, TwoSums sums, double) {
    return {count, sums.first, sums.second};
  }
  static __device__ __forceinline__ void add_part(TwoSums& sums, ChannelMoments part, double) {
    sums = sums + TwoSums{part.mean, part.m2};
  }
};

// ---- One block -------------------------------------------------------------------------------------------------------

// The memory of a block: sums of each warp, centres; then other things in the same place.
struct Scratch {
  TwoSums* cells;
  double* centres;

  __device__ __forceinline__ explicit Scratch(const Shape& shape)
      : cells(reinterpret_cast<TwoSums*>(shared_memory)),
        centres(reinterpret_cast<double*>(cells + shape.warps() * shape.channels_of_slab())) {}
};

// Units that a thread has loaded.
template <class Pass, int width, int units>
class Held {
 public:
  Pack<typename Pass::Storage, width> pack[Pass::inputs][units];

  __device__ __forceinline__ void set_mask(int i, unsigned mask) {
    const int at = i % masks_of_word * width;
    unsigned& word = masks_[i / masks_of_word];
    word = (word & ~(((1U << width) - 1) << at)) | mask << at;
  }
  // Elements, of rows; units with any, of columns: values of each channel.
  template <bool columns>
  __device__ __forceinline__ int count() const {
    int values = 0;
#pragma unroll
    for (int i = 0; i < units; ++i) {
      const unsigned mask = masks_[i / masks_of_word] >> (i % masks_of_word * width) & ((1U << width) - 1);
      values += columns ? (mask != 0 ? 1 : 0) : __popc(mask);
    }
    return values;
  }
  __device__ __forceinline__ bool has(int i, int j) const {
    return (masks_[i / masks_of_word] >> (i % masks_of_word * width + j) & 1U) != 0;
  }

 private:
  static constexpr int masks_of_word = 32 / width;
  unsigned masks_[(units + masks_of_word - 1) / masks_of_word] = {};
};

template <class Pass, int operands, int width, bool columns, int units>
__device__ __forceinline__ void load(const Pass& pass, const Field<operands>& field,
                                     Walk<operands, width, columns>& walk, Held<Pass, width, units>& held) {
#pragma unroll
  for (int i = 0; i < units; ++i) {
    const Unit<operands> unit = walk.take();
    held.set_mask(i, unit.mask);
#pragma unroll
    for (int k = 0; k < Pass::inputs; ++k) {
      held.pack[k][i] = load_unit<width>(pass.input[k], unit.at[k], unit.mask, field.step[k], field.has_words[k]);
    }
  }
}

// What `add` does with each value that exists: add(slot, values of the inputs).
template <bool columns, class Pass, int width, int units, class Add>
__device__ __forceinline__ void for_each_value(const Held<Pass, width, units>& held, const Add& add) {
#pragma unroll
  for (int i = 0; i < units; ++i) {
#pragma unroll
    for (int j = 0; j < width; ++j) {
      if (!held.has(i, j)) continue;
      double value[Pass::inputs];
#pragma unroll
      for (int k = 0; k < Pass::inputs; ++k) value[k] = to_number<double>(held.pack[k][i].element(j));
      add(columns ? j : 0, value);
    }
  }
}

// The centres of this thread's channels. sample(add) calls add(slot, values) with each value that the thread has at hand, and
// returns how many of a channel these are.
template <class Pass, int operands, int width, bool columns, class Sample>
__device__ __forceinline__ void find_centres(const Pass& pass, const Walk<operands, width, columns>& walk,
                                             const Field<operands>& field, const Shape& shape, const Scratch& scratch,
                                             const Sample& sample, double (&centre)[columns ? width : 1]) {
  constexpr int slots = columns ? width : 1;
  if constexpr (Pass::samples) {
    TwoSums sums[slots] = {};
    const int values = sample([&](int slot, const double(&value)[Pass::inputs]) { sums[slot].first += value[0]; });
#pragma unroll
    for (int j = 0; j < slots; ++j) sums[j].second = values;
    sum_rows(sums, shape, scratch.cells);
    for (int i = static_cast<int>(threadIdx.x); i < shape.channels_of_slab(); i += shape.threads) {
      const TwoSums total = scratch.cells[i];
      const double mean = total.second > 0 ? total.first / total.second : 0;
      scratch.centres[i] = std::isfinite(mean) ? mean : 0;  // about an infinity all differences would be NaN
    }
    __syncthreads();
    const int first = columns ? (static_cast<int>(threadIdx.x) & (shape.lanes() - 1)) * width : 0;
    for (int j = 0; j < slots; ++j) centre[j] = scratch.centres[first + j];
  } else {
    for (int j = 0; j < slots; ++j) {
      const Index channel = walk.first_channel() + j;
      centre[j] = channel < field.channels ? pass.centre(channel) : 0;
    }
  }
}

// Calls use(channel, what was summed) on one thread for each channel of the slab.
template <class Pass, int operands, int width, bool columns, class Use>
__device__ __forceinline__ void for_each_sum(const Walk<operands, width, columns>& walk, const Field<operands>& field,
                                             const Shape& shape, const Scratch& scratch, BlockPlace place,
                                             const Use& use) {
  for (int i = static_cast<int>(threadIdx.x); i < shape.channels_of_slab(); i += shape.threads) {
    const Index channel = place.slab * shape.channels_of_slab() + i;
    if (channel >= field.channels) continue;
    use(channel, Pass::result(walk.count(place.part), scratch.cells[i], Pass::samples ? scratch.centres[i] : 0));
  }
}

// ---- The kernel ------------------------------------------------------------------------------------------------------

template <class Pass, class Finish>
struct SumArguments {
  Field<Pass::inputs> field;
  Shape shape;
  Pass pass;
  Parts parts;
  Finish finish;  // called with each channel and its sums
};

template <int width, bool columns, class Pass, class Finish>
__global__ void __launch_bounds__(most_threads, 1) sum_kernel(const __grid_constant__ SumArguments<Pass, Finish> a) {
  constexpr int slots = columns ? width : 1;
  constexpr int units = units_in_registers<Pass::inputs, width, columns>;
  const BlockPlace place(a.shape, block_index());
  if (place.slab >= a.shape.slabs) return;
  const Scratch scratch(a.shape);
  Walk<Pass::inputs, width, columns> walk(a.field, a.shape, place);
  Held<Pass, width, units> held;
  load(a.pass, a.field, walk, held);
  double centre[slots];
  const auto sample = [&](const auto& add) {
    for_each_value<columns>(held, add);
    return held.template count<columns>();
  };
  find_centres(a.pass, walk, a.field, a.shape, scratch, sample, centre);
  TwoSums sums[slots] = {};
  const auto add = [&](int slot, const double(&value)[Pass::inputs]) { Pass::add(sums[slot], value, centre[slot]); };
  for_each_value<columns>(held, add);
  while (walk.more()) {
    load(a.pass, a.field, walk, held);
    for_each_value<columns>(held, add);
  }
  sum_rows(sums, a.shape, scratch.cells);
  if (a.shape.parts == 1) {
    return for_each_sum<Pass>(walk, a.field, a.shape, scratch, place,
                              [&](Index channel, ChannelMoments sum) { a.finish(channel, sum); });
  }
  for_each_sum<Pass>(walk, a.field, a.shape, scratch, place, [&](Index channel, ChannelMoments sum) {
    double* const to = a.parts.sums + 3 * (channel * a.shape.parts + place.part);
    to[0] = sum.count;
    to[1] = sum.mean;
    to[2] = sum.m2;
  });
  if (is_last(a.parts.tickets + place.slab, a.shape.parts)) {
    merge_parts<Pass>(a.parts, a.field, a.shape, place.slab, a.finish);
  };
}

}  // namespace syncbn::inline v0::cuda
