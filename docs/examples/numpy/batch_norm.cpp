// A layer for Python, of which it knows nothing: tensors come and go by DLPack, which NumPy, PyTorch, JAX, CuPy and others
// speak. batch_norm.py calls this by ctypes.

#include <exception>
#include <memory>
#include <string>

#include <syncbn/interop/dlpack.hpp>
#include <syncbn/syncbn.hpp>

namespace {

using Layer = syncbn::BatchNorm<syncbn::any_dims>;

thread_local std::string problem;

// Exceptions end here: what went wrong, or null.
template <class F>
const char* without_exceptions(const F& f) {
  try {
    f();
    return nullptr;
  } catch (const std::exception& e) {
    problem = e.what();
    return problem.c_str();
  }
}

// [begin take]
// The layer's work on two tensors of the same format, whichever it is. Both are ours from here on, and are given back.
const char* normalize(Layer& layer, DLManagedTensor* x, DLManagedTensor* y, bool train) {
  const auto give_back = [](DLManagedTensor* tensor) {
    if (tensor->deleter != nullptr) tensor->deleter(tensor);
  };
  const std::shared_ptr<DLManagedTensor> owners[] = {{x, give_back}, {y, give_back}};
  return without_exceptions([&] {
    syncbn::visit_dlpack(x->dl_tensor, [&]<class T>(syncbn::TensorView<T> input) {
      if constexpr (!std::is_same_v<T, double>) {  // parameters are float
        const auto output = syncbn::dlpack_view<T>(y->dl_tensor);
        layer.train(train);
        Layer::Saved saved;
        layer.forward(input, output, saved);
      } else {
        throw syncbn::Error("a layer with parameters of float takes no tensors of double");
      }
    });
  });
}
// [end take]

}  // namespace

extern "C" {

Layer* layer_new(syncbn::Index channels) { return new Layer(channels); }
void layer_delete(Layer* layer) { delete layer; }

const char* layer_forward(Layer* layer, DLManagedTensor* x, DLManagedTensor* y, int train) {
  return normalize(*layer, x, y, train != 0);
}

// [begin give]
// The running mean, without a copy: it lives as long as the layer.
DLManagedTensor* layer_running_mean(Layer* layer) { return syncbn::to_dlpack(layer->running_mean()); }
// [end give]
}
