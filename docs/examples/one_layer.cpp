// A layer on plain memory: training forward, backward, inference.

// [begin]
#include <iostream>
#include <numeric>
#include <vector>

#include <syncbn/syncbn.hpp>

int main() {
  std::vector<float> in(8 * 3 * 4 * 4), out(in.size()), out_grad(in.size(), 1), in_grad(in.size());
  std::iota(in.begin(), in.end(), 0.0F);

  using Tensor = syncbn::TensorView<float>;                              // your memory, with extents and strides
  const Tensor x(in.data(), {8, 3, 4, 4}), y(out.data(), {8, 3, 4, 4});  // (N, C, H, W)
  const Tensor dy(out_grad.data(), {8, 3, 4, 4}), dx(in_grad.data(), {8, 3, 4, 4});

  syncbn::BatchNorm<2> bn(3);           // 2 spatial dimensions, 3 channels
  const auto saved = bn.forward(x, y);  // y by the statistics of x; updates the running ones
  bn.backward(dy, x, saved, dx);        // dx; adds to bn.weight_grad() and bn.bias_grad()
  bn.infer(x, y);                       // y by the running statistics; const and thread-safe

  std::cout << bn << "\nrunning mean of channel 0: " << bn.running_mean()[0] << '\n';
  return bn.running_mean()[0] == 17.55F && bn.bias_grad()[0] == 8 * 4 * 4 ? 0 : 1;
}
// [end]
