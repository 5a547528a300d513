#pragma once

#include <syncbn/concepts.hpp>
#include <syncbn/moments.hpp>

// What is done with a channel's sums once they are complete, by one thread.

namespace syncbn::inline v0::cuda {

// The count is the same word for all channels: it is added to when all of them have been merged.
struct AddMoments {
  MomentsPointers to;
  __device__ void operator()(Index channel, ChannelMoments sum) const {
    const ChannelMoments merged = merge({*to.count, to.mean[channel], to.m2[channel]}, sum);
    to.mean[channel] = merged.mean;
    to.m2[channel] = merged.m2;
  }
};
struct AddTo {
  double* word;
  double value;
  SYNCBN_HOST_DEVICE void operator()(Index) const noexcept { *word += value; }
};

template <class Finish>
struct SetMoments {
  MomentsPointers to;
  Finish finish;
  __device__ void operator()(Index channel, ChannelMoments sum) const {
    if (channel == 0) *to.count = sum.count;
    to.mean[channel] = sum.mean;
    to.m2[channel] = sum.m2;
    finish(channel, sum);
  }
};

struct AddSums {
  GradientSumsPointers to;
  __device__ void operator()(Index channel, ChannelMoments sum) const {
    to.dy[channel] += sum.mean;
    to.dy_centred[channel] += sum.m2;
  }
};

template <class Finish>
struct SetSums {
  GradientSumsPointers to;
  Finish finish;
  __device__ void operator()(Index channel, ChannelMoments sum) const {
    to.dy[channel] = sum.mean;
    to.dy_centred[channel] = sum.m2;
    finish(channel);
  }
};

}  // namespace syncbn::inline v0::cuda
