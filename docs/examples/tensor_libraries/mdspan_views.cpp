// mdspan, that of the standard library or the one of the CUDA toolkit, which host compilers read too.

#include <vector>

#if __has_include(<mdspan>) && __cplusplus > 202002L
#include <mdspan>
namespace md = std;
#else
#include <cuda/std/mdspan>
namespace md = cuda::std;
#endif

#include <syncbn/interop/mdspan.hpp>
#include <syncbn/syncbn.hpp>

#include "../compare.hpp"

int main() {
  constexpr int samples = 16, channels = 6, length = 50;
  const std::vector<float> in = example::numbers(samples * channels * length, 1);
  std::vector<float> out(in.size());

  // [begin use]
  using Shape = md::dextents<int, 3>;                                                        // (N, C, L)
  const md::mdspan<const float, Shape> x(in.data(), samples, channels, length);              // rows, as in C
  const md::mdspan<float, Shape, md::layout_left> y(out.data(), samples, channels, length);  // as in Fortran
  syncbn::BatchNorm<1> bn(channels, {.eps = 0});
  const auto saved = bn.forward(x, y);
  // [end use]

  std::vector<double> mean(channels), variance(channels);
  for (int c = 0; c < channels; ++c) {
    for (int n = 0; n < samples; ++n) {
      for (int l = 0; l < length; ++l) {
        const auto k = static_cast<std::size_t>(c);
        const double before = static_cast<double>(in[static_cast<std::size_t>((n * channels + c) * length + l)]);
        const double after = static_cast<double>(out[static_cast<std::size_t>(n + samples * (c + channels * l))]);
        mean[k] += before / (samples * length);
        variance[k] += after * after / (samples * length);
      }
    }
  }
  const auto by_us = saved.statistics.mean();
  bool ok = example::agree("the means of channels", std::vector<double>(by_us, by_us + channels), mean);
  ok &= example::agree("each channel of y has variance 1", variance, std::vector<double>(channels, 1));
  return ok ? 0 : 1;
}
