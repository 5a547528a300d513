// Doubles would lose half their digits in a layer whose parameters are floats.
// expect: in_format_of
#include <syncbn/syncbn.hpp>

#ifdef SYNCBN_MISTAKE
using Parameter = float;
#else
using Parameter = double;
#endif

void normalize(syncbn::BatchNorm<2, syncbn::CpuBackend<Parameter>>& bn, syncbn::TensorView<double> x) {
  auto saved = bn.forward(x, x);
}
