// A layer of four spatial dimensions.
// expect: BatchNorm: Dims is 1, 2, 3 or any_dims
#include <syncbn/syncbn.hpp>

#ifdef SYNCBN_MISTAKE
using Layer = syncbn::BatchNorm<4>;
#else
using Layer = syncbn::BatchNorm<syncbn::any_dims>;
#endif

syncbn::Index channels(const Layer& bn) { return bn.channels(); }
