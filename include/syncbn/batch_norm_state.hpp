#pragma once

#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <syncbn/check.hpp>
#include <syncbn/detail/call.hpp>
#include <syncbn/detail/state_storage.hpp>
#include <syncbn/options.hpp>
#include <syncbn/rank_failure.hpp>

namespace syncbn::inline v0 {

/// @brief What a layer owns besides its group: parameters, gradients, running statistics, options and mode. The base of
/// BatchNorm, which adds the passes. Copies are deep; those of a layer on borrowed tensors refer to the same tensors.
/// @tparam Backend  in whose memory the tensors lie; its parameter type is theirs.
/// @tparam Storage  what has the tensors: the layer's own, or somebody else (borrowed.hpp).
template <class Backend, class Storage = detail::StateStorage<Backend>>
class BatchNormState {
  static_assert(check_backend<Backend>());

 public:
  using Parameter = typename Backend::parameter_type;                                      ///< float or double
  using ParameterView = TensorView<Parameter, typename Backend::memory_space>;             ///< of a per-channel tensor
  using ConstParameterView = TensorView<const Parameter, typename Backend::memory_space>;  ///< likewise, read-only

  /// @brief Weight 1, bias 0, running mean 0, running variance 1, counter 0, training mode.
  /// @param channels  C. @param options  as PyTorch's. @param backend  the device. @throws Error if @p channels is negative.
  BatchNormState(Index channels, const BatchNormOptions& options, Backend backend)
      : options_(options), backend_(std::move(backend)) {
    if (channels < 0) {
      const std::string c = std::to_string(channels);
      throw Error("Trying to create tensor with negative dimension " + c + ": [" + c + "]");
    }
    storage_ = std::make_shared<Storage>(backend_, channels, options);
    flags_.tracks = options.track_running_stats;
  }
  /// @brief A state of its own with the same values. @param other  copied from.
  BatchNormState(const BatchNormState& other)
      : options_(other.options_),
        backend_(other.backend_),
        storage_(std::make_shared<Storage>(*other.storage_)),
        flags_(other.flags_) {}
  BatchNormState(BatchNormState&&) = default;  ///< The source may only be assigned to or destroyed afterwards.
  /// @brief As the copy constructor. @param other  copied from. @return *this.
  BatchNormState& operator=(const BatchNormState& other) { return *this = BatchNormState(other); }
  BatchNormState& operator=(BatchNormState&&) = default;  ///< As the move constructor. @return *this.
  ~BatchNormState() = default;

  /// @brief C. @return as constructed.
  Index channels() const noexcept { return storage_->channels; }
  /// @brief eps, momentum and what was asked for at construction. @return the options.
  const BatchNormOptions& options() const noexcept { return options_; }
  /// @brief Changes eps. @param eps  the same on every rank.
  void set_eps(double eps) noexcept { options_.eps = eps; }
  /// @brief Changes momentum. @param momentum  the same on every rank; empty: cumulative average.
  void set_momentum(std::optional<double> momentum) noexcept { options_.momentum = momentum; }

  /// @brief Scale. @return one per channel; a view of nothing where affine is false.
  ParameterView weight() noexcept { return detail::whole<typename Backend::memory_space>(storage_->weight); }
  /// @copydoc weight()
  ConstParameterView weight() const noexcept {
    return detail::whole<typename Backend::memory_space>(std::as_const(storage_->weight));
  }
  /// @brief Offset. @return one per channel; a view of nothing where affine is false.
  ParameterView bias() noexcept { return detail::whole<typename Backend::memory_space>(storage_->bias); }
  /// @copydoc bias()
  ConstParameterView bias() const noexcept {
    return detail::whole<typename Backend::memory_space>(std::as_const(storage_->bias));
  }
  /// @brief Accumulated gradient of weight. @return likewise.
  ParameterView weight_grad() noexcept { return detail::whole<typename Backend::memory_space>(storage_->weight_grad); }
  /// @copydoc weight_grad()
  ConstParameterView weight_grad() const noexcept {
    return detail::whole<typename Backend::memory_space>(std::as_const(storage_->weight_grad));
  }
  /// @brief Accumulated gradient of bias. @return likewise.
  ParameterView bias_grad() noexcept { return detail::whole<typename Backend::memory_space>(storage_->bias_grad); }
  /// @copydoc bias_grad()
  ConstParameterView bias_grad() const noexcept {
    return detail::whole<typename Backend::memory_space>(std::as_const(storage_->bias_grad));
  }
  /// @brief Running mean. @return one per channel; a view of nothing where there are no running statistics.
  ParameterView running_mean() noexcept {
    return detail::whole<typename Backend::memory_space>(storage_->running_mean);
  }
  /// @copydoc running_mean()
  ConstParameterView running_mean() const noexcept {
    return detail::whole<typename Backend::memory_space>(std::as_const(storage_->running_mean));
  }
  /// @brief Running unbiased variance. @return likewise.
  ParameterView running_var() noexcept { return detail::whole<typename Backend::memory_space>(storage_->running_var); }
  /// @copydoc running_var()
  ConstParameterView running_var() const noexcept {
    return detail::whole<typename Backend::memory_space>(std::as_const(storage_->running_var));
  }
  /// @brief Whether there are running statistics, as asked for at construction. @return true if so.
  bool has_running_stats() const noexcept { return storage_->tracked; }
  /// @brief Training batches seen; those empty on all ranks do not count. @return 0 where nothing is tracked.
  std::int64_t num_batches_tracked() const { return storage_->batches(backend_); }
  /// @brief Sets the counter. @param batches  the same on every rank. Nothing where nothing is tracked.
  /// @throws Error  on borrowed tensors, before borrow().
  void set_num_batches_tracked(std::int64_t batches) {
    if constexpr (requires { storage_->check_borrowed(); }) storage_->check_borrowed();
    if (storage_->tracked) backend_.upload(&batches, Index{1}, storage_->num_batches_tracked.data());
  }

  /// @brief Training or evaluation. @param mode  false: evaluation.
  void train(bool mode = true) noexcept { flags_.training = mode; }
  /// @brief The same as train(false).
  void eval() noexcept { flags_.training = false; }
  /// @brief The mode. @return true in training.
  bool is_training() const noexcept { return flags_.training; }
  /// @brief Whether training updates running statistics. Those that exist stay, and evaluation goes on using them.
  /// @param track  PyTorch's `track_running_stats` after construction.
  void set_track_running_stats(bool track) noexcept { flags_.tracks = track; }
  /// @brief The flag. @return as set.
  bool tracks_running_stats() const noexcept { return flags_.tracks; }
  /// @brief Which parameters backward() makes gradients for. @param weight  false: frozen. @param bias  likewise.
  void set_requires_grad(bool weight, bool bias) noexcept {
    flags_.weight_requires_grad = weight;
    flags_.bias_requires_grad = bias;
  }
  /// @brief Zeroes weight_grad() and bias_grad(). This and the next two are for layers that own their tensors.
  void zero_grad()
    requires requires(Storage& s, Backend& b) { s.zero_grad(b); }
  {
    storage_->zero_grad(backend_);
  }
  /// @brief Running mean 0, running variance 1, counter 0.
  void reset_running_stats()
    requires requires(Storage& s, Backend& b) { s.reset_running_stats(b); }
  {
    storage_->reset_running_stats(backend_);
  }
  /// @brief reset_running_stats(), weight 1, bias 0.
  void reset_parameters()
    requires requires(Storage& s, Backend& b) { s.reset_parameters(b); }
  {
    storage_->reset_parameters(backend_);
  }
  /// @brief The device. @return this layer's.
  Backend& backend() noexcept { return backend_; }
  /// @copydoc backend()
  const Backend& backend() const noexcept { return backend_; }

 protected:
  /// @cond
  // The state that another layer has, shared with it: conversion.
  BatchNormState(const BatchNormState& other, const std::shared_ptr<Storage>& shared)
      : options_(other.options_), backend_(other.backend_), storage_(shared), flags_(other.flags_) {}

  // What the ranks of a synchronized layer must agree about. The backend may fail to tell the counter; a host that does not
  // wait leaves that to its queue.
  ExchangeCall describe_call(const char* operation, std::int64_t dims, ScalarKind kind, bool update, bool waits,
                             RankFailure& failure) const {
    ExchangeCall call;
    call.operation = operation;
    call.channels = channels();
    call.dims = dims;
    call.kind = kind;
    call.eps = options_.eps;
    call.momentum = options_.momentum.value_or(std::numeric_limits<double>::quiet_NaN());
    call.flags = (options_.affine ? 1U : 0U) | (flags_.tracks ? 2U : 0U) | (update ? 4U : 0U);
    if (!has_running_stats()) return call;
    if (waits) {
      failure.capture([&] { call.batches = num_batches_tracked(); });
    } else {
      call.batches_at = storage_->num_batches_tracked.data();
    }
    return call;
  }

  BatchNormOptions options_;
  Backend backend_;
  std::shared_ptr<Storage> storage_;
  detail::LayerFlags flags_;
  /// @endcond
};

}  // namespace syncbn::inline v0
