#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <type_traits>
#include <utility>

// clang-format off: clang reads LibTorch 1.13 only if this comes first
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/nn/options/batchnorm.h>
// clang-format on

#include <syncbn/interop/detail/torch_cpu_place.hpp>

/// @file
/// Batch normalization with LibTorch's autograd for tensors that somebody else holds: what the modules of torch.hpp compute
/// with, and what a module of another kind (Python's) needs.

namespace syncbn::inline v0 {

namespace detail::torch {

// A forward pass that a graph remembers.
struct Call : ::torch::CustomClassHolder {
  std::shared_ptr<Engine> engine;
  LayerTensors tensors;
  LayerSettings settings;
  std::unique_ptr<SavedPass> saved;
  bool affine = false;
};

// The same group, for a layer that is made later than those of other ranks: it has its number already.
class Numbered : public AnyCommunicator {
 public:
  explicit Numbered(AnyCommunicator group)
      : AnyCommunicator(std::move(group)), ordinal_(AnyCommunicator::next_ordinal()) {}
  std::uint64_t next_ordinal() const noexcept { return ordinal_; }

 private:
  std::uint64_t ordinal_;
};

// One place in a model on the CUDA devices of this process, each of which gets its engines when a tensor comes from there.
class EnginesOfDevices {
 public:
  EnginesOfDevices(Index channels, const BatchNormOptions& options, const AnyCommunicator& communicator)
      : channels_(channels), options_(options), single_(Numbered(communicator)), double_(Numbered(communicator)) {}

  std::shared_ptr<Engine> find(bool of_double, c10::DeviceIndex device) {
    const std::lock_guard lock(mutex_);
    std::shared_ptr<Engine>& engine = engines_[{of_double, device}];
    if (!engine) engine = make_cuda_engine.load()(of_double, channels_, options_, of_double ? double_ : single_);
    return engine;
  }

 private:
  Index channels_;
  BatchNormOptions options_;
  AnyCommunicator single_, double_;
  std::mutex mutex_;
  std::map<std::pair<bool, c10::DeviceIndex>, std::shared_ptr<Engine>> engines_;
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
      call->affine = true;
    }
    context->saved_data["call"] = c10::IValue::make_capsule(call);
    call->tensors = {};  // those of the module; the graph has its own
    return y;
  }

  static ::torch::autograd::variable_list backward(::torch::autograd::AutogradContext* context,
                                                   const ::torch::autograd::variable_list& dy) {
    const auto call = c10::static_intrusive_pointer_cast<Call>(context->saved_data["call"].toCapsule());
    const bool affine = call->affine;
    const auto find = [&]() -> BackwardInputs {
      if (at::GradMode::is_enabled()) {
        throw Error("the gradient of a gradient (create_graph) of batch normalization is not available");
      }
      auto saved = context->get_saved_variables();
      return {dy[0], saved[0], affine ? saved[1] : at::Tensor()};
    };
    const Gradients gradients =
        call->engine->backward(find, *call->saved, context->needs_input_grad(0), affine && context->needs_input_grad(1),
                               affine && context->needs_input_grad(2));
    return {gradients.x, gradients.weight, gradients.bias, at::Tensor()};
  }
};

}  // namespace detail::torch

namespace torch {

/// @brief One place in a model where batches are normalized, by itself or with the ranks of a group. It holds no tensors: each
/// pass is given parameters and buffers. A copy is another place in the same group.
class Normalizer {
 public:
  /// @brief For tensors as the options say. @param options  the number of channels, affine and track_running_stats count here.
  /// @param communicator  none: not synchronized. Every rank makes its normalizers in the same order.
  /// @throws Error, std::bad_alloc.
  explicit Normalizer(const ::torch::nn::BatchNormOptions& options, AnyCommunicator communicator = {})
      : communicator_(std::move(communicator)), channels_(options.num_features()) {
    layer_options_ = {
        .eps = options.eps(), .affine = options.affine(), .track_running_stats = options.track_running_stats()};
    make_engines();
  }
  /// @brief Likewise, in the same group. @param other  the model.
  Normalizer(const Normalizer& other) : Normalizer(other, other.communicator_) {}
  /// @brief Likewise, in another group. @param other  the model. @param communicator  the group.
  Normalizer(const Normalizer& other, AnyCommunicator communicator)
      : communicator_(std::move(communicator)), channels_(other.channels_), layer_options_(other.layer_options_) {
    make_engines();
  }
  Normalizer(Normalizer&&) = default;  ///< The same place, which the other is no more.
  /// @brief As the constructor. @param other  the model. @return this.
  Normalizer& operator=(const Normalizer& other) {
    if (this != &other) *this = Normalizer(other);
    return *this;
  }
  Normalizer& operator=(Normalizer&&) = default;  ///< Likewise. @return this.
  ~Normalizer() = default;

  /// @brief The group over which statistics are taken in training. @return of one rank: not synchronized.
  const AnyCommunicator& communicator() const noexcept { return communicator_; }

  /// @brief Normalizes by the batch of all ranks in training, else by the running statistics; updates these in place.
  /// @param x  of f32, f16 or bf16 with parameters of float; of f64 too with those of double; in host memory, or on a CUDA
  /// device in programs that have torch_cuda.cuh. @shape{(N, C, S...)} @param tensors  as the options say; the graph keeps the memory of those that its backward pass needs.
  /// @param settings  of this pass. @return y, in the layout of x, differentiable by x, weight and bias where these are.
  /// Passes that communicate come one at a time; all others may be made by several threads at once.
  /// @collective{one exchange in training, and one in its backward pass}
  /// @throws ShapeError, Error  on every rank alike, before any state changes. @throws CommunicatorError  see there.
  at::Tensor forward(const at::Tensor& x, const LayerTensors& tensors, const LayerSettings& settings) const {
    using namespace detail::torch;
    const at::Tensor& typical = tensors.weight.defined() ? tensors.weight : tensors.running_mean;
    const at::ScalarType type = typical.defined() ? typical.scalar_type() : x.defined() ? x.scalar_type() : at::kFloat;
    const bool on_device = x.defined() && x.is_cuda() && make_cuda_engine != nullptr;
    c10::OptionalDeviceGuard guard;
    if (on_device) guard.reset_device(x.device());
    const std::shared_ptr<Engine> engine = on_device ? devices_->find(type == at::kDouble, x.device().index())
                                           : type == at::kDouble ? double_
                                                                 : single_;
    const auto wants_gradient = [](const at::Tensor& t) { return t.defined() && t.requires_grad(); };
    const bool differentiates = at::GradMode::is_enabled() && x.defined() &&
                                (wants_gradient(x) || wants_gradient(tensors.weight) || wants_gradient(tensors.bias));
    // Where one of the two lacks, the layer says so on every rank; autograd would on this one alone.
    if (!differentiates || tensors.weight.defined() != tensors.bias.defined()) {
      return engine->forward(x, tensors, settings, nullptr);
    }
    const auto call = c10::make_intrusive<Call>();
    call->engine = engine;
    call->tensors = tensors;
    call->settings = settings;
    if (!tensors.weight.defined()) return Normalize::apply(x, NoParameter(), NoParameter(), call);
    return Normalize::apply(x, tensors.weight, tensors.bias, call);
  }

 private:
  // For parameters of float and for those of double, in host memory and on devices: all from the beginning, so that every rank
  // makes its layers in the same order.
  void make_engines() {
    single_ = std::make_shared<detail::torch::EngineOf<detail::torch::CpuPlace<float>>>(channels_, layer_options_,
                                                                                        communicator_);
    double_ = std::make_shared<detail::torch::EngineOf<detail::torch::CpuPlace<double>>>(channels_, layer_options_,
                                                                                         communicator_);
    devices_ = std::make_unique<detail::torch::EnginesOfDevices>(channels_, layer_options_, communicator_);
  }

  AnyCommunicator communicator_;
  Index channels_;
  BatchNormOptions layer_options_;
  std::shared_ptr<detail::torch::Engine> single_, double_;
  std::unique_ptr<detail::torch::EnginesOfDevices> devices_;
};

}  // namespace torch
}  // namespace syncbn::inline v0
