// x and y in different formats.
// expect: same_format_as
#include <syncbn/syncbn.hpp>

#ifdef SYNCBN_MISTAKE
using Output = syncbn::BFloat16;
#else
using Output = float;
#endif

void normalize(syncbn::BatchNorm<2>& bn, syncbn::TensorView<float> x, syncbn::TensorView<Output> y) {
  auto saved = bn.forward(x, y);
}
