#pragma once

#include <cuda_runtime.h>
#include <type_traits>

#include <syncbn/backends/detail/cuda_sums.cuh>

// The elementwise pass, alone or after the sums of the same values, which then stay on the chip.

namespace syncbn::inline v0::cuda {

// The function of one element, as a functor of the channel gives it.
template <class CoefficientsOf>
using coefficients_t = std::decay_t<decltype(std::declval<const CoefficientsOf&>()(Index{}))>;

// The coefficients of this thread's channels: looked up once for each channel of the slab.
template <int slots, class CoefficientsOf>
__device__ __forceinline__ void look_up(const CoefficientsOf& coefficients_of, const Shape& shape, Index slab,
                                        Index channels, coefficients_t<CoefficientsOf> (&mine)[slots]) {
  using Coefficients = coefficients_t<CoefficientsOf>;
  Coefficients* const shared = reinterpret_cast<Coefficients*>(shared_memory);
  for (int i = static_cast<int>(threadIdx.x); i < shape.channels_of_slab(); i += shape.threads) {
    const Index channel = slab * shape.channels_of_slab() + i;
    if (channel < channels) shared[i] = coefficients_of(channel);
  }
  __syncthreads();
  const int first = (static_cast<int>(threadIdx.x) & (shape.lanes() - 1)) * slots;
#pragma unroll
  for (int j = 0; j < slots; ++j) mine[j] = shared[first + j];
}

// One element of the result.
template <class Coefficients, class Storage>
__device__ __forceinline__ Storage evaluate(const Coefficients& f, const Storage (&value)[1]) {
  using P = std::decay_t<decltype(f.scale)>;
  return to_element<Storage>(f(to_number<P>(value[0])));
}
template <class Coefficients, class Storage>
__device__ __forceinline__ Storage evaluate(const Coefficients& f, const Storage (&value)[2]) {
  using P = std::decay_t<decltype(f.scale)>;
  return to_element<Storage>(f(to_number<P>(value[0]), to_number<P>(value[1])));
}

template <class Storage, int inputs_>
struct Tensors {
  static constexpr int inputs = inputs_;
  const Storage* input[inputs];
  Storage* output;
};

// Maps one unit and stores it. pack_of(k): the unit of input k.
template <bool columns, int width, class T, int inputs, class Coefficients, class PackOf>
__device__ __forceinline__ void map_unit(const Tensors<T, inputs>& tensors, const Field<inputs + 1>& field,
                                         const Unit<inputs + 1>& unit, const Coefficients* f, const PackOf& pack_of,
                                         bool streams) {
  Pack<T, width> result;
  Pack<T, width> pack[inputs];
#pragma unroll
  for (int k = 0; k < inputs; ++k) pack[k] = pack_of(k);
#pragma unroll
  for (int j = 0; j < width; ++j) {
    T value[inputs];
    for (int k = 0; k < inputs; ++k) value[k] = pack[k].element(j);
    result.set(j, evaluate(f[columns ? j : 0], value));
  }
  store_unit<width>(tensors.output, unit.at[inputs], unit.mask, field.step[inputs], field.has_words[inputs], result,
                    streams);
}

template <class T, int inputs, class CoefficientsOf>
struct MapArguments {
  Field<inputs + 1> field;
  Shape shape;
  Tensors<T, inputs> tensors;
  CoefficientsOf coefficients_of;
};

// From the last block to the first: what was read last is still in the second cache.
template <int width, bool columns, class T, int inputs, class CoefficientsOf>
__global__ void __launch_bounds__(most_threads, 1)
    map_kernel(const __grid_constant__ MapArguments<T, inputs, CoefficientsOf> a) {
  constexpr int operands = inputs + 1;
  constexpr int slots = columns ? width : 1;
  constexpr int units = slots < 8 ? 4 : 4 / inputs;
  const Index block = a.shape.slabs * a.shape.parts - 1 - block_index();
  if (block < 0) return;
  const BlockPlace place(a.shape, block);
  Walk<operands, width, columns> walk(a.field, a.shape, place);
  Walk<operands, width, columns> results = walk;
  Pack<T, width> pack[inputs][units];
  const auto load_some = [&] {
#pragma unroll
    for (int i = 0; i < units; ++i) {
      const Unit<operands> unit = walk.take();
#pragma unroll
      for (int k = 0; k < inputs; ++k) {
        pack[k][i] = load_unit<width>(a.tensors.input[k], unit.at[k], unit.mask, a.field.step[k], a.field.has_words[k]);
      }
    }
  };
  load_some();  // they are under way during the look-up
  coefficients_t<CoefficientsOf> f[slots];
  look_up(a.coefficients_of, a.shape, place.slab, a.field.channels, f);
  while (true) {
#pragma unroll
    for (int i = 0; i < units; ++i) {
      map_unit<columns, width>(
          a.tensors, a.field, results.take(), f, [&](int k) { return pack[k][i]; }, a.shape.streams);
    }
    if (!walk.more()) break;
    load_some();
  }
}

// ---- On chip ---------------------------------------------------------------------------------------------------------

template <class Pass, class Finish, class CoefficientsOf>
struct OnChipArguments {
  Field<Pass::inputs + 1> field;
  Shape shape;  // one part
  Pass pass;
  typename Pass::Storage* output;
  Finish finish;                   // called with each channel and its sums
  CoefficientsOf coefficients_of;  // called after that
  unsigned scratch_bytes;
};

// Each value is read once, and kept by the thread that read it: in registers, and then in shared memory.
template <int width, bool columns, class Pass, class Finish, class CoefficientsOf>
__global__ void __launch_bounds__(most_threads, 1)
    on_chip_kernel(const __grid_constant__ OnChipArguments<Pass, Finish, CoefficientsOf> a) {
  using T = typename Pass::Storage;
  constexpr int inputs = Pass::inputs;
  constexpr int operands = inputs + 1;
  constexpr int slots = columns ? width : 1;
  constexpr int units =
      units_in_registers<inputs, width, columns> / share_of_registers<coefficients_t<CoefficientsOf>, width>;
  const BlockPlace place{a.shape, block_index()};
  if (place.slab >= a.shape.slabs) return;
  const Scratch scratch(a.shape);
  Walk<operands, width, columns> walk(a.field, a.shape, place);
  Held<Pass, width, units> held;
  load(a.pass, a.field, walk, held);
  // The rest: each thread its own units, so that neighbours lie in different banks.
  Pack<T, width>* const rest = reinterpret_cast<Pack<T, width>*>(shared_memory + a.scratch_bytes) + threadIdx.x;
  const auto at = [&](int k, int i) { return (i * inputs + k) * a.shape.threads; };
  Walk<operands, width, columns> of_rest = walk;
  constexpr int batch = 4 / inputs;  // loads that do not wait for each other
  for (int first = 0; first < a.shape.units_in_shared; first += batch) {
    Held<Pass, width, batch> some;
    load(a.pass, a.field, walk, some);
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      if (first + i >= a.shape.units_in_shared) continue;
#pragma unroll
      for (int k = 0; k < inputs; ++k) rest[at(k, first + i)] = some.pack[k][i];
    }
  }
  const auto for_each = [&](const auto& add) {
    for_each_value<columns>(held, add);
    int values = held.template count<columns>();
    Walk<operands, width, columns> again = of_rest;
    for (int i = 0; i < a.shape.units_in_shared; ++i) {
      Held<Pass, width, 1> one;
      one.set_mask(0, again.take().mask);
      for (int k = 0; k < inputs; ++k) one.pack[k][0] = rest[at(k, i)];
      for_each_value<columns>(one, add);
      values += one.template count<columns>();
    }
    return values;
  };
  double centre[slots];
  find_centres(a.pass, walk, a.field, a.shape, scratch, for_each, centre);
  TwoSums sums[slots] = {};
  for_each([&](int slot, const double(&value)[inputs]) { Pass::add(sums[slot], value, centre[slot]); });
  sum_rows(sums, a.shape, scratch.cells);
  for_each_sum<Pass>(walk, a.field, a.shape, scratch, place,
                     [&](Index channel, ChannelMoments sum) { a.finish(channel, sum); });
  __syncthreads();
  coefficients_t<CoefficientsOf> f[slots];
  look_up(a.coefficients_of, a.shape, place.slab, a.field.channels, f);
  const Tensors<T, inputs> tensors = [&] {
    Tensors<T, inputs> t;
    for (int k = 0; k < inputs; ++k) t.input[k] = a.pass.input[k];
    t.output = a.output;
    return t;
  }();
  Walk<operands, width, columns> results(a.field, a.shape, place);  // again, rather than kept in registers
#pragma unroll
  for (int i = 0; i < units; ++i) {
    map_unit<columns, width>(
        tensors, a.field, results.take(), f, [&](int k) { return held.pack[k][i]; }, a.shape.streams);
  }
  for (int i = 0; i < a.shape.units_in_shared; ++i) {
    map_unit<columns, width>(
        tensors, a.field, results.take(), f, [&](int k) { return rest[at(k, i)]; }, a.shape.streams);
  }
}

}  // namespace syncbn::inline v0::cuda
