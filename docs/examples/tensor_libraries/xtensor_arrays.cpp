// xtensor's arrays, and views of them.

#include <limits>
#include <vector>

#include <xtensor/xarray.hpp>
#include <xtensor/xmath.hpp>
#include <xtensor/xrandom.hpp>
#include <xtensor/xview.hpp>

#include <syncbn/interop/xtensor.hpp>
#include <syncbn/syncbn.hpp>

#include "../compare.hpp"

int main() {
  // [begin use]
  const xt::xarray<float> x = xt::random::randn<float>({16, 6, 5, 7});  // (N, C, H, W)
  xt::xarray<float> y = xt::empty_like(x);
  syncbn::BatchNorm<2> bn(6, {.eps = 0});
  const auto half = xt::view(x, xt::range(0, 16, 2));  // every other sample, where it is
  auto result = xt::view(y, xt::range(0, 16, 2));
  const auto saved = bn.forward(half, result);
  // [end use]
  const xt::xarray<double> mean = xt::mean(xt::cast<double>(half), {0, 2, 3});
  const xt::xarray<double> variance = xt::mean(xt::square(xt::cast<double>(result)), {0, 2, 3});
  const auto by_us = saved.statistics.mean();
  bool ok = example::agree("the means of channels", std::vector<double>(by_us, by_us + 6),
                           std::vector<double>(mean.begin(), mean.end()));
  ok &= example::agree("each channel of y has variance 1", std::vector<double>(variance.begin(), variance.end()),
                       std::vector<double>(6, 1));
  return ok ? 0 : 1;
}
