#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

// clang-format off: clang reads LibTorch 1.13 only if this comes first
#include <ATen/core/ivalue.h>
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
// clang-format on

#include <syncbn/backends/any_communicator.hpp>
#include <syncbn/backends/cpu_backend.hpp>
#include <syncbn/backends/executors.hpp>
#include <syncbn/borrowed.hpp>
#include <syncbn/interop/torch_tensor.hpp>
#include <syncbn/validation.hpp>

// What LibTorch's modules compute with: a layer on their tensors, for either type of parameters. Whatever is wrong with a
// rank's tensors is found in view(), where the layer catches it, so that all ranks throw.

namespace syncbn::inline v0 {

namespace torch {

/// @brief The tensors of a layer; those that it does not have are undefined.
struct LayerTensors {
  at::Tensor weight;               ///< (C), with the option affine
  at::Tensor bias;                 ///< (C), with the option affine
  at::Tensor running_mean;         ///< (C), with the option track_running_stats
  at::Tensor running_var;          ///< (C), with the option track_running_stats
  at::Tensor num_batches_tracked;  ///< one integer, with the option track_running_stats
};

/// @brief What may differ from pass to pass.
struct LayerSettings {
  std::int64_t dims = 0;           ///< spatial dimensions of the input, 0 for any
  double eps = 1e-5;               ///< is added to the variance
  std::optional<double> momentum;  ///< share of the batch in the running statistics; none: cumulative average
  bool training = true;            ///< by the batch or by the running statistics
};

}  // namespace torch

namespace detail::torch {

using syncbn::torch::LayerSettings;
using syncbn::torch::LayerTensors;

// An argument of a pass. Prepare is called before any tensor is looked at, and Find gives the tensor.
template <class T>
struct Argument {
  std::function<at::Tensor()> find;
};

}  // namespace detail::torch

template <class T>
struct tensor_traits<detail::torch::Argument<T>> {
  static TensorView<T> view(const detail::torch::Argument<T>& argument) {
    return syncbn::torch::view<T>(argument.find());
  }
};

namespace detail::torch {

// LibTorch's own threads, as many as at::set_num_threads() says.
struct OnTorchThreads {
  template <class Task>
  void operator()(Index tasks, const Task& task) const {
    at::parallel_for(0, tasks, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) task(Index{i});
    });
  }
};

inline void check_dims(const at::Tensor& x, std::int64_t dims) {
  if (!x.defined()) throw Error("a tensor that is not defined");
  if (dims == 1) check_rank<1>(static_cast<int>(x.dim()));
  if (dims == 2) check_rank<2>(static_cast<int>(x.dim()));
  if (dims == 3) check_rank<3>(static_cast<int>(x.dim()));
}

// Of one forward pass, for its backward pass.
struct SavedPass {
  virtual ~SavedPass() = default;
};

struct Gradients {
  at::Tensor x, weight, bias;
};

// One layer in one group.
class Engine {
 public:
  virtual ~Engine() = default;
  // y is allocated, with the strides of x. No `saved`: for inference.
  virtual at::Tensor forward(const at::Tensor& x, const LayerTensors& tensors, const LayerSettings& settings,
                             std::unique_ptr<SavedPass>* saved) = 0;
  virtual Gradients backward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight,
                             const SavedPass& saved, bool wants_x, bool wants_weight, bool wants_bias) = 0;
};

template <class P>
class EngineOf : public Engine {
  using Backend = CpuBackend<P, ParallelFor<OnTorchThreads>>;
  using Layer = BorrowingBatchNorm<any_dims, Backend, AnyCommunicator>;
  struct Saved : SavedPass {
    typename Layer::Saved values;
  };

 public:
  EngineOf(Index channels, const BatchNormOptions& options, const AnyCommunicator& communicator)
      : layer_(channels, options, communicator, Backend(ParallelFor(OnTorchThreads()))) {}

  at::Tensor forward(const at::Tensor& x, const LayerTensors& tensors, const LayerSettings& settings,
                     std::unique_ptr<SavedPass>* saved) override {
    layer_.set_eps(settings.eps);
    layer_.set_momentum(settings.momentum);
    layer_.train(settings.training);
    at::Tensor y;
    by_format(x, [&]<class T>() {
      const Argument<const T> input{[&] {
        check_dims(x, settings.dims);
        borrow(tensors);
        return x;
      }};
      const Argument<T> output{[&] { return y = at::empty_like(x); }};
      if (saved == nullptr && !settings.training) {
        layer_.infer(input, output);
      } else {
        auto result = std::make_unique<Saved>();
        layer_.forward(input, output, result->values);
        if (saved != nullptr) *saved = std::move(result);
      }
    });
    if (settings.training) {
      for (const at::Tensor* t : {&tensors.running_mean, &tensors.running_var, &tensors.num_batches_tracked}) {
        if (t->defined() && !t->is_inference()) t->unsafeGetTensorImpl()->bump_version();
      }
    }
    return y;
  }

  Gradients backward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight, const SavedPass& saved,
                     bool wants_x, bool wants_weight, bool wants_bias) override {
    Gradients gradients;
    const auto& values = static_cast<const Saved&>(saved).values;
    by_format(x, [&]<class T>() {
      const Argument<const T> gradient{[&] {
        // Absent gradients are not made.
        if (wants_weight) gradients.weight = at::zeros_like(weight);
        if (wants_bias) gradients.bias = at::zeros_like(weight);
        layer_.borrow_for_backward(values_of(weight, "weight"), values_of(gradients.weight, "weight"),
                                   values_of(gradients.bias, "bias"));
        return dy;
      }};
      const Argument<const T> input{[&] { return x; }};
      if (wants_x) {
        layer_.backward(gradient, input, values, Argument<T>{[&] { return gradients.x = at::empty_like(x); }});
      } else {
        layer_.backward(gradient, input, values, no_gradient);
      }
    });
    return gradients;
  }

 private:
  // Formats that nobody takes are refused by view(), with the others.
  template <class F>
  static void by_format(const at::Tensor& x, const F& f) {
    const at::ScalarType type = x.defined() ? x.scalar_type() : at::kFloat;
    if (type == at::kHalf) return f.template operator()<at::Half>();
    if (type == at::kBFloat16) return f.template operator()<at::BFloat16>();
    if constexpr (std::is_same_v<P, double>) {
      if (type == at::kDouble) return f.template operator()<double>();
    }
    f.template operator()<float>();
  }

  template <class T = P>
  static std::span<T> values_of(const at::Tensor& t, const char* name) {
    if (!t.defined()) return {};
    if (t.scalar_type() != c10::CppTypeToScalarType<T>::value || !t.device().is_cpu() || !t.is_contiguous()) {
      throw Error(std::string(name) + " is " + (t.is_contiguous() ? "" : "not contiguous, ") +
                  at::toString(t.scalar_type()) + " on " + t.device().str() + " where " +
                  at::toString(c10::CppTypeToScalarType<T>::value) + " on cpu is expected");
    }
    return {static_cast<T*>(t.data_ptr()), static_cast<std::size_t>(t.numel())};
  }

  void borrow(const LayerTensors& tensors) {
    layer_.borrow({.weight = values_of(tensors.weight, "weight"),
                   .bias = values_of(tensors.bias, "bias"),
                   .running_mean = values_of(tensors.running_mean, "running_mean"),
                   .running_var = values_of(tensors.running_var, "running_var"),
                   .num_batches_tracked = values_of<std::int64_t>(tensors.num_batches_tracked, "num_batches_tracked")});
    // The module may be gone, or have other memory, when the backward pass comes.
    kept_.clear();
    for (const at::Tensor* t :
         {&tensors.weight, &tensors.bias, &tensors.running_mean, &tensors.running_var, &tensors.num_batches_tracked}) {
      if (t->defined()) kept_.push_back(t->storage());
    }
  }

  Layer layer_;
  std::vector<c10::Storage> kept_;
};

}  // namespace detail::torch
}  // namespace syncbn::inline v0
