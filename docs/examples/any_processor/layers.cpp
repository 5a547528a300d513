// Compiled for one processor after the other, into libraries of the same name.

#include "layers.hpp"

#include <syncbn/syncbn.hpp>

namespace layers {

namespace {

template <class T>
syncbn::TensorView<T> view_of(T* data, const Extents& e) {
  return {data, {e.samples, e.channels, e.height, e.width}};
}

}  // namespace

struct BatchNorm::Body {
  syncbn::BatchNorm<2> layer;
  syncbn::BatchNorm<2>::Saved saved;
};

BatchNorm::BatchNorm(std::ptrdiff_t channels) : body_(new Body{syncbn::BatchNorm<2>(channels), {}}) {}
BatchNorm::BatchNorm(BatchNorm&&) noexcept = default;
BatchNorm& BatchNorm::operator=(BatchNorm&&) noexcept = default;
BatchNorm::~BatchNorm() = default;

void BatchNorm::forward(const float* x, const Extents& extents, float* y) {
  body_->layer.forward(view_of(x, extents), view_of(y, extents), body_->saved);
}
void BatchNorm::backward(const float* dy, const float* x, const Extents& extents, float* dx) {
  body_->layer.backward(view_of(dy, extents), view_of(x, extents), body_->saved, view_of(dx, extents));
}
void BatchNorm::train(bool training) { body_->layer.train(training); }

const char* built_for() { return BUILT_FOR; }

}  // namespace layers
