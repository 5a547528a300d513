#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

// clang-format off: clang reads LibTorch 1.13 only if this comes first
#include <ATen/core/ivalue.h>
#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
// clang-format on

#include <syncbn/backends/any_communicator.hpp>
#include <syncbn/borrowed.hpp>
#include <syncbn/interop/torch_tensor.hpp>
#include <syncbn/validation.hpp>

// What LibTorch's modules compute with: a layer on their tensors, for one type of parameters and one kind of device, a Place
// (torch_cpu_place.hpp, ../torch_cuda.cuh). Whatever is wrong with a rank's tensors is found in view(), where the layer catches
// it, so that all ranks throw.

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
  bool tracks = true;              ///< whether training updates the running statistics that there are
};

}  // namespace torch

namespace detail::torch {

using syncbn::torch::LayerSettings;
using syncbn::torch::LayerTensors;

// An argument of a pass, which is found where a mistake of it is an error on all ranks.
template <class T, class Space>
struct Argument {
  std::function<at::Tensor()> find;
};

}  // namespace detail::torch

template <class T, class Space>
struct tensor_traits<detail::torch::Argument<T, Space>> {
  static TensorView<T, Space> view(const detail::torch::Argument<T, Space>& argument) {
    return syncbn::torch::view<T, Space>(argument.find());
  }
};

namespace detail::torch {

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

// What a backward pass works on. Finding it may fail (autograd looks whether x was written to), and is the first thing that all
// ranks do together.
struct BackwardInputs {
  at::Tensor dy, x, weight;
};
using FindInputs = std::function<BackwardInputs()>;

struct Gradients {
  at::Tensor x, weight, bias;
};

// One place in a model, in one group. Passes that are not synchronized may be made by several threads at once.
class Engine {
 public:
  virtual ~Engine() = default;
  // y is allocated, in the layout of x. No `saved`: no backward pass will come.
  virtual at::Tensor forward(const at::Tensor& x, const LayerTensors& tensors, const LayerSettings& settings,
                             std::unique_ptr<SavedPass>* saved) = 0;
  virtual Gradients backward(const FindInputs& find, const SavedPass& saved, bool wants_x, bool wants_weight,
                             bool wants_bias) = 0;
};

// For work that is in order by itself.
struct NoOrder {
  void follow_caller() {}
};

// Makes the engine for tensors of a CUDA device, with parameters of double or float: set by the program that has one
// (../torch_cuda.cuh).
using MakeEngine = std::shared_ptr<Engine> (*)(bool of_double, Index channels, const BatchNormOptions& options,
                                               const AnyCommunicator& communicator);
inline std::atomic<MakeEngine> make_cuda_engine{nullptr};

// Place has a Backend, a Communicator that is made of an AnyCommunicator, and an Order of the backend's work and the caller's.
template <class Place>
class EngineOf : public Engine {
  using Backend = typename Place::Backend;
  using P = typename Backend::parameter_type;
  using Space = typename Backend::memory_space;
  using Together = BorrowingBatchNorm<any_dims, Backend, typename Place::Communicator>;
  using Alone = BorrowingBatchNorm<any_dims, Backend>;
  struct Saved : SavedPass {
    Saved() = default;
    Saved(const Saved&) = delete;
    Saved& operator=(const Saved&) = delete;
    ~Saved() override {
      const c10::OptionalDeviceGuard guard(device);  // memory goes back where it is from
      values = {};
    }
    SavedForward<Backend> values;
    at::ScalarType type = at::kFloat;  // of x
    at::Device device = at::kCPU;
  };

 public:
  EngineOf(Index channels, const BatchNormOptions& options, const AnyCommunicator& communicator)
      : options_(options),
        together_(channels, options, typename Place::Communicator(communicator), Place::lasting_backend()) {}

  at::Tensor forward(const at::Tensor& x, const LayerTensors& tensors, const LayerSettings& settings,
                     std::unique_ptr<SavedPass>* saved) override {
    if (!settings.training || together_.communicator().size() == 1) {
      Alone alone(together_.channels(), options_, {}, Place::backend());
      return normalize<false>(alone, x, tensors, settings, saved);
    }
    const std::lock_guard lock(mutex_);
    // Its backward pass borrows again, but the module may be gone by then, or have other memory.
    kept_ = {tensors.running_mean, tensors.running_var, tensors.num_batches_tracked};
    for (at::Tensor& t : kept_) {
      if (t.defined()) t = t.detach();
    }
    return normalize<true>(together_, x, tensors, settings, saved);
  }

  Gradients backward(const FindInputs& find, const SavedPass& pass, bool wants_x, bool wants_weight,
                     bool wants_bias) override {
    const auto& saved = static_cast<const Saved&>(pass);
    if (!saved.values.synchronized) {
      const BatchNormOptions options{.affine = options_.affine, .track_running_stats = false};
      Alone alone(together_.channels(), options, {}, Place::backend());
      return differentiate<false>(alone, find, saved, wants_x, wants_weight, wants_bias);
    }
    const std::lock_guard lock(mutex_);
    return differentiate<true>(together_, find, saved, wants_x, wants_weight, wants_bias);
  }

 private:
  // Of the lasting backend, if that is what works.
  template <bool lasting>
  using Order = std::conditional_t<lasting, typename Place::Order, NoOrder>;

  template <bool lasting, class Layer>
  static at::Tensor normalize(Layer& layer, const at::Tensor& x, const LayerTensors& tensors,
                              const LayerSettings& settings, std::unique_ptr<SavedPass>* saved) {
    Order<lasting> order;
    layer.set_eps(settings.eps);
    layer.set_momentum(settings.momentum);
    layer.train(settings.training);
    layer.set_track_running_stats(settings.tracks);
    at::Tensor y;
    by_format(x.defined() ? x.scalar_type() : at::kFloat, [&]<class T>() {
      const Argument<const T, Space> input{[&] {
        check_dims(x, settings.dims);
        Place::check(x);
        borrow(layer, tensors);
        return x;
      }};
      const Argument<T, Space> output{[&] {
        y = at::empty_like(x);
        order.follow_caller();
        return y;
      }};
      if (saved == nullptr && !settings.training) {
        layer.infer(input, output);
      } else {
        auto result = std::make_unique<Saved>();
        layer.forward(input, output, result->values);
        result->type = x.scalar_type();
        result->device = x.device();
        if (saved != nullptr) *saved = std::move(result);
      }
    });
    if (settings.training && settings.tracks) {
      for (const at::Tensor* t : {&tensors.running_mean, &tensors.running_var, &tensors.num_batches_tracked}) {
        if (t->defined() && !t->is_inference()) t->unsafeGetTensorImpl()->bump_version();
      }
    }
    return y;
  }

  template <bool lasting, class Layer>
  static Gradients differentiate(Layer& layer, const FindInputs& find, const Saved& saved, bool wants_x,
                                 bool wants_weight, bool wants_bias) {
    Order<lasting> order;
    Gradients gradients;
    BackwardInputs inputs;
    by_format(saved.type, [&]<class T>() {
      const Argument<const T, Space> gradient{[&] {
        inputs = find();
        // Absent gradients are not made.
        if (wants_weight) gradients.weight = at::zeros_like(inputs.weight);
        if (wants_bias) gradients.bias = at::zeros_like(inputs.weight);
        layer.borrow_for_backward(values_of(inputs.weight, "weight"), values_of(gradients.weight, "weight"),
                                  values_of(gradients.bias, "bias"));
        order.follow_caller();
        return inputs.dy;
      }};
      const Argument<const T, Space> input{[&] { return inputs.x; }};
      if (wants_x) {
        layer.backward(gradient, input, saved.values, Argument<T, Space>{[&] {
                         gradients.x = at::empty_like(inputs.x);
                         order.follow_caller();
                         return gradients.x;
                       }});
      } else {
        layer.backward(gradient, input, saved.values, no_gradient);
      }
    });
    return gradients;
  }

  // Formats that nobody takes are refused by view(), with the others.
  template <class F>
  static void by_format(at::ScalarType type, const F& f) {
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
    if (t.scalar_type() != c10::CppTypeToScalarType<T>::value || t.device().type() != type_of_device<Space> ||
        !t.is_contiguous()) {
      throw Error(std::string(name) + " is " + (t.is_contiguous() ? "" : "not contiguous, ") +
                  at::toString(t.scalar_type()) + " on " + t.device().str() + " where " +
                  at::toString(c10::CppTypeToScalarType<T>::value) + " on " +
                  at::DeviceTypeName(type_of_device<Space>, true) + " is expected");
    }
    return {static_cast<T*>(t.data_ptr()), static_cast<std::size_t>(t.numel())};
  }

  template <class Layer>
  static void borrow(Layer& layer, const LayerTensors& tensors) {
    layer.borrow({.weight = values_of(tensors.weight, "weight"),
                  .bias = values_of(tensors.bias, "bias"),
                  .running_mean = values_of(tensors.running_mean, "running_mean"),
                  .running_var = values_of(tensors.running_var, "running_var"),
                  .num_batches_tracked = values_of<std::int64_t>(tensors.num_batches_tracked, "num_batches_tracked")});
  }

  BatchNormOptions options_;
  std::mutex mutex_;  // over all that follows
  Together together_;
  std::array<at::Tensor, 3> kept_;
};

}  // namespace detail::torch
}  // namespace syncbn::inline v0
