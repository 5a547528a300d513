#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <utility>

// clang-format off: clang reads LibTorch 1.13 only if this comes first
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/nn/modules/batchnorm.h>
// clang-format on

#include <syncbn/interop/detail/torch_engine.hpp>

/// @file
/// Modules for LibTorch's C++ frontend: `BatchNorm1d/2d/3d` and `SyncBatchNorm`, with autograd, over CPU tensors of f32, f16,
/// bf16 and f64 in any layout. They take the options of `torch::nn::BatchNorm*` and have its parameters and buffers under its
/// names. Given a communicator, statistics in training are those of all ranks.

namespace syncbn::inline v0 {

namespace detail::torch {

// The engines of a module: one for parameters of float, one for those of double. Both are there from the beginning, so that
// every rank makes its layers in the same order. A copy is another layer in the same group.
class Engines {
 public:
  Engines(const ::torch::nn::BatchNormOptions& options, AnyCommunicator communicator)
      : communicator_(std::move(communicator)), channels_(options.num_features()) {
    layer_options_ = {
        .eps = options.eps(), .affine = options.affine(), .track_running_stats = options.track_running_stats()};
    single_ = std::make_shared<EngineOf<float>>(channels_, layer_options_, communicator_);
    double_ = std::make_shared<EngineOf<double>>(channels_, layer_options_, communicator_);
  }
  Engines(const Engines& other) : Engines(other, other.communicator_) {}
  Engines(const Engines& other, AnyCommunicator communicator)
      : communicator_(std::move(communicator)), channels_(other.channels_), layer_options_(other.layer_options_) {
    single_ = std::make_shared<EngineOf<float>>(channels_, layer_options_, communicator_);
    double_ = std::make_shared<EngineOf<double>>(channels_, layer_options_, communicator_);
  }
  Engines(Engines&&) = default;
  Engines& operator=(const Engines& other) {
    Engines copy(other);
    return *this = std::move(copy);
  }
  Engines& operator=(Engines&&) = default;
  ~Engines() = default;

  const AnyCommunicator& communicator() const noexcept { return communicator_; }
  const std::shared_ptr<Engine>& of(at::ScalarType parameters) const noexcept {
    return parameters == at::kDouble ? double_ : single_;
  }

 private:
  AnyCommunicator communicator_;
  Index channels_;
  BatchNormOptions layer_options_;
  std::shared_ptr<Engine> single_, double_;
};

// A forward pass that a graph remembers.
struct Call : ::torch::CustomClassHolder {
  std::shared_ptr<Engine> engine;
  Tensors tensors;
  Settings settings;
  std::unique_ptr<SavedPass> saved;
};

struct NoParameter {};

// x, weight, bias -> y. Parameter is at::Tensor, or NoParameter.
struct Normalize : ::torch::autograd::Function<Normalize> {
  template <class Parameter>
  static at::Tensor forward(::torch::autograd::AutogradContext* context, const at::Tensor& x, const Parameter& weight,
                            const Parameter&, const c10::intrusive_ptr<Call>& call) {
    at::Tensor y = call->engine->forward(x, call->tensors, call->settings, &call->saved);
    if constexpr (std::is_same_v<Parameter, NoParameter>) {
      context->save_for_backward({x});
    } else {
      context->save_for_backward({x, weight});
    }
    context->saved_data["call"] = c10::IValue::make_capsule(call);
    call->tensors = {};  // those of the module; the graph has its own
    return y;
  }

  static ::torch::autograd::variable_list backward(::torch::autograd::AutogradContext* context,
                                                   const ::torch::autograd::variable_list& dy) {
    if (at::GradMode::is_enabled()) {
      throw Error("the gradient of a gradient (create_graph) of batch normalization is not available");
    }
    const auto saved = context->get_saved_variables();
    const auto call = c10::static_intrusive_pointer_cast<Call>(context->saved_data["call"].toCapsule());
    const bool affine = saved.size() > 1;
    Gradients gradients = call->engine->backward(dy[0], saved[0], affine ? saved[1] : at::Tensor(), *call->saved,
                                                 context->needs_input_grad(0), affine && context->needs_input_grad(1),
                                                 affine && context->needs_input_grad(2));
    return {gradients.x, gradients.weight, gradients.bias, at::Tensor()};
  }
};

}  // namespace detail::torch

namespace torch {

/// @brief What all modules here have, whatever their number of dimensions.
class Synchronizable {
 public:
  virtual ~Synchronizable() = default;
  /// @brief The group over which statistics are taken in training. @return of one rank: not synchronized.
  virtual const AnyCommunicator& communicator() const noexcept = 0;
  /// @brief Another group from now on; graphs that exist keep theirs. @param communicator  every rank does this for the same
  /// modules in the same order. @throws Error, std::bad_alloc.
  virtual void set_communicator(AnyCommunicator communicator) = 0;
};

/// @brief The base of the modules; its members are those of `torch::nn::BatchNorm*Impl`.
/// @tparam Dims  spatial dimensions, 0 for any. @tparam Derived  the module.
template <std::size_t Dims, class Derived>
class BatchNormImplBase : public ::torch::nn::NormImplBase<Dims, Derived, ::torch::nn::BatchNormOptions>,
                          public Synchronizable {
  using Base = ::torch::nn::NormImplBase<Dims, Derived, ::torch::nn::BatchNormOptions>;

 public:
  /// @brief As `torch::nn::BatchNorm*`. @param settings  LibTorch's: the number of channels alone, or more.
  /// @param communicator  none: not synchronized.
  explicit BatchNormImplBase(const ::torch::nn::BatchNormOptions& settings, AnyCommunicator communicator = {})
      : Base(settings), engines_(settings, std::move(communicator)) {}

  /// @brief Normalizes by the batch of all ranks in training, else by the running statistics. @param x  of f32, f16 or bf16
  /// with parameters of float; of f64 too with those of double. @shape{(N, C, S...)}
  /// @return y, with the strides of x. @collective{one exchange in training, and one in its backward pass}
  /// @throws ShapeError, Error  on every rank alike, before any state changes. @throws CommunicatorError  see there.
  at::Tensor forward(const at::Tensor& x) {
    using namespace detail::torch;
    const Tensors tensors{this->weight, this->bias, this->running_mean, this->running_var, this->num_batches_tracked};
    const std::optional<double> momentum =
        this->options.momentum() ? std::optional(*this->options.momentum()) : std::nullopt;
    const Settings settings{Dims, this->options.eps(), momentum, this->is_training()};
    const at::Tensor& typical = this->weight.defined() ? this->weight : this->running_mean;
    const std::shared_ptr<Engine>& engine = engines_.of(typical.defined() ? typical.scalar_type() : x.scalar_type());
    const auto wants_gradient = [](const at::Tensor& t) { return t.defined() && t.requires_grad(); };
    const bool differentiates = at::GradMode::is_enabled() && x.defined() &&
                                (wants_gradient(x) || wants_gradient(this->weight) || wants_gradient(this->bias));
    if (!differentiates) {
      return engine->forward(x, tensors, settings, nullptr);
    }
    const auto call = c10::make_intrusive<Call>();
    call->engine = engine;
    call->tensors = tensors;
    call->settings = settings;
    if (!this->weight.defined()) return Normalize::apply(x, NoParameter(), NoParameter(), call);
    return Normalize::apply(x, this->weight, this->bias, call);
  }

  /// @brief Takes over what another module has: the same parameters, buffers in the same memory, and its mode.
  /// @param other  `torch::nn::BatchNorm*Impl` with the same options.
  template <class Other>
  void adopt(const Other& other) {
    if (other.weight.defined()) {
      this->weight = this->parameters_["weight"] = other.weight;
      this->bias = this->parameters_["bias"] = other.bias;
    }
    if (other.running_mean.defined()) {
      this->running_mean.set_data(other.running_mean);
      this->running_var.set_data(other.running_var);
      this->num_batches_tracked.set_data(other.num_batches_tracked);
    }
    this->train(other.is_training());
  }

  /// @brief As Synchronizable. @return the group.
  const AnyCommunicator& communicator() const noexcept override { return engines_.communicator(); }
  /// @brief As Synchronizable. @param communicator  the new group.
  void set_communicator(AnyCommunicator communicator) override {
    engines_ = detail::torch::Engines(engines_, std::move(communicator));
  }

  /// @brief Parameters and running statistics stay float where 16 bits are asked for, which inputs alone may have; the counter
  /// stays an integer. @param device  where to. @param dtype  what to. @param non_blocking  as LibTorch.
  void to(at::Device device, at::ScalarType dtype, bool non_blocking = false) override {
    convert(device, dtype, non_blocking);
  }
  /// @brief Likewise. @param dtype  what to. @param non_blocking  as LibTorch.
  void to(at::ScalarType dtype, bool non_blocking = false) override { convert(std::nullopt, dtype, non_blocking); }
  /// @brief Likewise. @param device  where to. @param non_blocking  as LibTorch.
  void to(at::Device device, bool non_blocking = false) override { convert(device, std::nullopt, non_blocking); }

  /// @brief Prints as LibTorch prints its own. @param stream  where.
  void pretty_print(std::ostream& stream) const override {
    const auto& o = this->options;
    stream << std::boolalpha << Derived::printed_name << "(" << o.num_features() << ", eps=" << o.eps()
           << ", momentum=";
    if (o.momentum()) {
      stream << *o.momentum();
    } else {
      stream << "None";
    }
    stream << ", affine=" << o.affine() << ", track_running_stats=" << o.track_running_stats();
    if (communicator().size() > 1) stream << ", ranks=" << communicator().size();
    stream << ")";
  }

 protected:
  /// @brief Nothing: forward() checks the dimensions where all ranks learn of it.
  void _check_input_dim(const at::Tensor&) override {}

 private:
  void convert(std::optional<at::Device> device, std::optional<at::ScalarType> dtype, bool non_blocking) {
    if (dtype == at::kHalf || dtype == at::kBFloat16) dtype = at::kFloat;
    for (at::Tensor* t :
         {&this->weight, &this->bias, &this->running_mean, &this->running_var, &this->num_batches_tracked}) {
      if (!t->defined()) continue;
      const at::ScalarType type = t == &this->num_batches_tracked ? at::kLong : dtype.value_or(t->scalar_type());
      t->set_data(at::Tensor(*t).to(device.value_or(t->device()), type, non_blocking));
    }
  }

  detail::torch::Engines engines_;
};

/// @brief Inputs (N, C) or (N, C, L): `torch::nn::BatchNorm1dImpl` on this library's kernels, synchronized if it has a communicator.
class BatchNorm1dImpl : public BatchNormImplBase<1, BatchNorm1dImpl> {
 public:
  using BatchNormImplBase<1, BatchNorm1dImpl>::BatchNormImplBase;
  static constexpr const char* printed_name = "syncbn::torch::BatchNorm1d";  ///< for pretty_print()
};
/// @brief Holds a BatchNorm1dImpl, as LibTorch's modules are held.
class BatchNorm1d : public ::torch::nn::ModuleHolder<BatchNorm1dImpl> {
 public:
  using Impl = BatchNorm1dImpl;  ///< what it holds
  using ModuleHolder::ModuleHolder;
};

/// @brief Inputs (N, C, H, W), likewise.
class BatchNorm2dImpl : public BatchNormImplBase<2, BatchNorm2dImpl> {
 public:
  using BatchNormImplBase<2, BatchNorm2dImpl>::BatchNormImplBase;
  static constexpr const char* printed_name = "syncbn::torch::BatchNorm2d";  ///< for pretty_print()
};
/// @brief Holds a BatchNorm2dImpl, as LibTorch's modules are held.
class BatchNorm2d : public ::torch::nn::ModuleHolder<BatchNorm2dImpl> {
 public:
  using Impl = BatchNorm2dImpl;  ///< what it holds
  using ModuleHolder::ModuleHolder;
};

/// @brief Inputs (N, C, D, H, W), likewise.
class BatchNorm3dImpl : public BatchNormImplBase<3, BatchNorm3dImpl> {
 public:
  using BatchNormImplBase<3, BatchNorm3dImpl>::BatchNormImplBase;
  static constexpr const char* printed_name = "syncbn::torch::BatchNorm3d";  ///< for pretty_print()
};
/// @brief Holds a BatchNorm3dImpl, as LibTorch's modules are held.
class BatchNorm3d : public ::torch::nn::ModuleHolder<BatchNorm3dImpl> {
 public:
  using Impl = BatchNorm3dImpl;  ///< what it holds
  using ModuleHolder::ModuleHolder;
};

/// @brief Inputs (N, C, S...): what `nn.SyncBatchNorm` is in Python.
class SyncBatchNormImpl : public BatchNormImplBase<0, SyncBatchNormImpl> {
 public:
  using BatchNormImplBase<0, SyncBatchNormImpl>::BatchNormImplBase;
  static constexpr const char* printed_name = "syncbn::torch::SyncBatchNorm";  ///< for pretty_print()
};
/// @brief Holds a SyncBatchNormImpl, as LibTorch's modules are held.
class SyncBatchNorm : public ::torch::nn::ModuleHolder<SyncBatchNormImpl> {
 public:
  using Impl = SyncBatchNormImpl;  ///< what it holds
  using ModuleHolder::ModuleHolder;
};

}  // namespace torch
}  // namespace syncbn::inline v0
