#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <utility>

// clang-format off: clang reads LibTorch 1.13 only if this comes first
#include <ATen/core/ivalue.h>
#include <torch/nn/modules/batchnorm.h>
// clang-format on

#include <syncbn/interop/torch_normalizer.hpp>

/// @file
/// Modules for LibTorch's C++ frontend: `BatchNorm1d/2d/3d` and `SyncBatchNorm`, with autograd, over tensors of f32, f16, bf16
/// and f64 in any layout, in host memory, and on CUDA devices in programs that have torch_cuda.cuh too. They take the options of `torch::nn::BatchNorm*` and have its parameters and buffers under its
/// names. Given a communicator, statistics in training are those of all ranks.

namespace syncbn::inline v0 {

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

/// @brief The base of the modules; its members are those of `torch::nn::BatchNorm*Impl`. Evaluation may be done by several
/// threads at once. A copy (clone()) is another layer of the group, which all ranks make at the same place or none does.
/// @tparam Dims  spatial dimensions, 0 for any. @tparam Derived  the module.
template <std::size_t Dims, class Derived>
class BatchNormImplBase : public ::torch::nn::NormImplBase<Dims, Derived, ::torch::nn::BatchNormOptions>,
                          public Synchronizable {
  using Base = ::torch::nn::NormImplBase<Dims, Derived, ::torch::nn::BatchNormOptions>;

 public:
  /// @brief As `torch::nn::BatchNorm*`. @param settings  LibTorch's: the number of channels alone, or more.
  /// @param communicator  none: not synchronized.
  explicit BatchNormImplBase(const ::torch::nn::BatchNormOptions& settings, AnyCommunicator communicator = {})
      : Base(settings), normalizer_(settings, std::move(communicator)) {}

  /// @brief Normalizes by the batch of all ranks in training, else by the running statistics. @param x  of f32, f16 or bf16
  /// with parameters of float; of f64 too with those of double. @shape{(N, C, S...)}
  /// @return y, in the layout of x. @collective{one exchange in training, and one in its backward pass}
  /// @throws ShapeError, Error  on every rank alike, before any state changes. @throws CommunicatorError  see there.
  at::Tensor forward(const at::Tensor& x) {
    const std::optional<double> momentum =
        this->options.momentum() ? std::optional(*this->options.momentum()) : std::nullopt;
    return normalizer_.forward(
        x, {this->weight, this->bias, this->running_mean, this->running_var, this->num_batches_tracked},
        {Dims, this->options.eps(), momentum, this->is_training(), this->options.track_running_stats()});
  }

  /// @brief Takes over what another module has: the same parameters, buffers in the same memory, and its mode. Of 16 bits, they
  /// become float; a counter that LibTorch's to() has made a number of another kind becomes an integer again.
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
    convert(std::nullopt, std::nullopt, false);
    this->train(other.is_training());
  }

  /// @brief As Synchronizable. @return the group.
  const AnyCommunicator& communicator() const noexcept override { return normalizer_.communicator(); }
  /// @brief As Synchronizable. @param communicator  the new group.
  void set_communicator(AnyCommunicator communicator) override {
    normalizer_ = Normalizer(normalizer_, std::move(communicator));
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
    for (at::Tensor* t :
         {&this->weight, &this->bias, &this->running_mean, &this->running_var, &this->num_batches_tracked}) {
      if (!t->defined()) continue;
      at::ScalarType type = dtype.value_or(t->scalar_type());
      if (type == at::kHalf || type == at::kBFloat16) type = at::kFloat;
      if (t == &this->num_batches_tracked) type = at::kLong;
      t->set_data(at::Tensor(*t).to(device.value_or(t->device()), type, non_blocking));
    }
  }

  Normalizer normalizer_;
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
