// Elements of a type without scalar_kind.
// expect: known_scalar
#include <syncbn/syncbn.hpp>

#ifdef SYNCBN_MISTAKE
using Element = int;
#else
using Element = float;
#endif

void normalize(syncbn::BatchNorm<2>& bn, syncbn::TensorView<Element> x) { auto saved = bn.forward(x, x); }
