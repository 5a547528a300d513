// Something that is no tensor at all.
// expect: concept tensor = requires
#include <syncbn/syncbn.hpp>

void normalize(syncbn::BatchNorm<2>& bn, syncbn::TensorView<float> x, syncbn::TensorView<float> y) {
#ifdef SYNCBN_MISTAKE
  const int input = 3;
#else
  const syncbn::TensorView<float> input = x;
#endif
  auto saved = bn.forward(input, y);
}
