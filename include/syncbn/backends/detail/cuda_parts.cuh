#pragma once

#include <cmath>
#include <cuda_runtime.h>

#include <syncbn/backends/detail/cuda_shape.hpp>
#include <syncbn/moments.hpp>

// A channel that several blocks share: the last one of them adds up what all have found.

namespace syncbn::inline v0::cuda {

// The one array whose size a launch gives.
extern __shared__ __align__(16) unsigned char shared_memory[];

struct TwoSums {
  double first = 0;
  double second = 0;
};
__device__ __forceinline__ TwoSums operator+(TwoSums a, TwoSums b) { return {a.first + b.first, a.second + b.second}; }

// Sums of parts, until the last block of a slab has all of them.
struct Parts {
  double* sums;       // three for each part, part after part, channel after channel
  unsigned* tickets;  // one for each slab, 0 whenever no kernel runs
};

// Whether this block is the last of its slab that comes here; what the others have stored before is there then.
__device__ __forceinline__ bool is_last(unsigned* ticket, Index parts) {
  __shared__ unsigned before;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) before = atomicInc(ticket, static_cast<unsigned>(parts - 1));
  __syncthreads();
  __threadfence();
  return before == static_cast<unsigned>(parts - 1);
}

// All parts of each channel of a slab, by all threads of a block. finish(channel, sums) on one of them.
template <class Pass, class Finish>
__device__ __forceinline__ void merge_parts(const Parts& parts, const Field<Pass::inputs>& field, const Shape& shape,
                                            Index slab, const Finish& finish) {
  TwoSums* const shared = reinterpret_cast<TwoSums*>(shared_memory);
  const int channels = shape.channels_of_slab();
  const int thread = static_cast<int>(threadIdx.x);
  const int group = thread / channels;
  const int groups = shape.threads / channels;
  const Index channel = slab * channels + thread % channels;
  const double* const first = parts.sums + 3 * channel * shape.parts;
  double centre = 0;
  TwoSums sums;
  if (channel < field.channels) {
    if (Pass::samples) centre = __ldcg(first + 1);
    if (!std::isfinite(centre)) centre = 0;
    for (Index part = group; part < shape.parts; part += groups) {
      const double* const from = first + 3 * part;
      Pass::add_part(sums, {__ldcg(from), __ldcg(from + 1), __ldcg(from + 2)}, centre);
    }
  }
  shared[thread] = sums;
  for (int half = groups / 2; half > 0; half /= 2) {
    __syncthreads();
    if (group < half) shared[thread] = shared[thread] + shared[thread + half * channels];
  }
  if (group == 0 && channel < field.channels) {
    finish(channel, Pass::result(static_cast<double>(field.elements), shared[thread], centre));
  }
}

}  // namespace syncbn::inline v0::cuda
