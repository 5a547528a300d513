// Kernels for the processor that the program finds itself on, from one build: the dynamic loader of glibc picks the library
// in glibc-hwcaps/ that is built for it. With an argument, fails unless the library was built for that.

#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <vector>

#include "../compare.hpp"
#include "layers.hpp"

int main(int argc, char** argv) {
  const layers::Extents extents{8, 16, 7, 9};
  const auto size = static_cast<std::size_t>(extents.samples * extents.channels * extents.height * extents.width);
  const std::vector<float> x = example::numbers(size, 1);
  const std::vector<float> dy = example::numbers(size, 2);
  std::vector<float> y(size);
  std::vector<float> dx(size);

  layers::BatchNorm bn(extents.channels);
  bn.forward(x.data(), extents, y.data());
  bn.backward(dy.data(), x.data(), extents, dx.data());

  double sum = 0;
  double squares = 0;
  double gradient = 0;
  for (std::size_t i = 0; i < size; ++i) {
    sum += static_cast<double>(y[i]);
    squares += static_cast<double>(y[i]) * static_cast<double>(y[i]);
    gradient += static_cast<double>(dx[i]);
  }
  const auto n = static_cast<double>(size);
  const std::vector<double> found{sum / n, squares / n, gradient / n};
  std::printf("kernels are built for %s\n", layers::built_for());
  bool ok = true;
  if (argc > 1) ok = example::holds(argv[1], std::strcmp(argv[1], layers::built_for()) == 0);
  // eps is 1e-5 of a variance near 1.3.
  ok &= example::agree("mean, variance, and mean of the gradient", found, std::vector<double>{0, 1, 0}, 1e-5);
  return ok ? 0 : 1;
}
