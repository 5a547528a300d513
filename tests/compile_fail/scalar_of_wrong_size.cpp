// An element type that has not the size of the format it is said to have.
// expect: known_scalar
#include <cstdint>

#include <syncbn/syncbn.hpp>

struct Half {
#ifdef SYNCBN_MISTAKE
  std::uint32_t bits;
#else
  std::uint16_t bits;
#endif
};

template <>
struct syncbn::scalar_kind<Half> {
  static constexpr ScalarKind value = ScalarKind::f16;
};

void normalize(syncbn::BatchNorm<2>& bn, syncbn::TensorView<Half> x) { auto saved = bn.forward(x, x); }
