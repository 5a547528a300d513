// A tensor that can be viewed only where it is not const, as no input is.
// expect: tensor: the specialisation of tensor_traits lacks  static auto view(const T&)
// expect: tensor<const
#include <vector>

#include <syncbn/syncbn.hpp>

struct Batch {
  std::vector<float> values;
};

template <>
struct syncbn::tensor_traits<Batch> {
  static TensorView<float> view(Batch& x) { return {x.values.data(), {1, 1}, {1, 1}}; }
#ifndef SYNCBN_MISTAKE
  static TensorView<const float> view(const Batch& x) { return {x.values.data(), {1, 1}, {1, 1}}; }
#endif
};

static_assert(syncbn::check_tensor<Batch>());

void normalize(syncbn::BatchNorm<1>& bn, Batch& x, Batch& y) { auto saved = bn.forward(x, y); }
