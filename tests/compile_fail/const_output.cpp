// An output that cannot be written.
// expect: writable_tensor
#include <syncbn/syncbn.hpp>

#ifdef SYNCBN_MISTAKE
using Output = const float;
#else
using Output = float;
#endif

void normalize(syncbn::BatchNorm<2>& bn, syncbn::TensorView<float> x, syncbn::TensorView<Output> y) {
  auto saved = bn.forward(x, y);
}
