#include "on_cpu.hpp"

#include <syncbn/syncbn.hpp>

void example::step_on_cpu(HostTensor x, HostTensor dy, HostTensor y, HostTensor dx) {
  syncbn::BatchNorm<2> bn(x.extent(1));
  const auto saved = bn.forward(x, y);
  bn.backward(dy, x, saved, dx);
}
