#pragma once

#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <syncbn/backends/single_process_communicator.hpp>
#include <syncbn/check.hpp>
#include <syncbn/detail/layer_state.hpp>
#include <syncbn/options.hpp>
#include <syncbn/saved.hpp>
#include <syncbn/synchronize.hpp>
#include <syncbn/validation.hpp>

namespace syncbn::inline v0 {

/// @brief Batch normalization whose statistics span the ranks of a communicator.
///
/// For each channel, over (N, S..., ranks):
/// \f$ y = (x - \mathrm{mean}) / \sqrt{\mathrm{var} + \mathrm{eps}} \cdot \mathrm{weight} + \mathrm{bias} \f$.
/// Behaves as PyTorch's layers do; docs/conformance.md lists every point and the deliberate differences.
/// Copies are deep; use one layer from one thread at a time (infer() alone is thread-safe).
/// @tparam Dims          spatial dimensions: 1 (or none), 2, 3, or any_dims.
/// @tparam Backend       where the arithmetic runs; its parameter type is that of the state.
/// @tparam Communicator  the group over which statistics are taken.
/// @source{Ioffe and Szegedy 2015}
template <std::size_t Dims, class Backend = CpuBackend<float, SerialExecutor>,
          class Communicator = SingleProcessCommunicator>
class BatchNorm {
  static_assert(check_backend<Backend>());
  static_assert(check_communicator<Communicator>());
  static_assert(check_reaches_memory_of<Communicator, Backend>());
  static_assert(Dims == 1 || Dims == 2 || Dims == 3 || Dims == any_dims, "BatchNorm: Dims is 1, 2, 3 or any_dims");

  using State = detail::LayerState<Backend>;

 public:
  using Parameter = typename Backend::parameter_type;  ///< float or double
  using ParameterView = typename State::View;          ///< of a per-channel tensor
  using ConstParameterView = typename State::ConstView;  ///< of a per-channel tensor, read-only
  using Saved = SavedForward<Backend>;                 ///< what backward() needs
  static constexpr std::size_t dims = Dims;            ///< the template argument

  /// @brief A layer with weight 1, bias 0, running mean 0, running variance 1, counter 0, in training mode.
  /// @param channels      C. @param options  as PyTorch's. @param communicator  the group; every rank makes its layers in the
  /// same order, or names them (set_name). @param backend  the device.
  /// @throws Error if @p channels is negative.
  explicit BatchNorm(Index channels, BatchNormOptions options = {}, Communicator communicator = Communicator(),
                     Backend backend = Backend())
      : BatchNorm(channels, options, Exchange<Communicator>(std::move(communicator)), std::move(backend)) {}
  /// @brief A layer of its own with the same state. @param other  copied from.
  BatchNorm(const BatchNorm& other)
      : options_(other.options_),
        backend_(other.backend_),
        exchange_(other.exchange_),
        state_(std::make_shared<State>(*other.state_)),
        flags_(other.flags_) {}
  BatchNorm(BatchNorm&&) = default;  ///< The source may only be assigned to or destroyed afterwards.
  /// @brief As the copy constructor. @param other  copied from. @return *this.
  BatchNorm& operator=(const BatchNorm& other) { return *this = BatchNorm(other); }
  BatchNorm& operator=(BatchNorm&&) = default;  ///< As the move constructor. @return *this.
  ~BatchNorm() = default;

  // ---- The passes ----------------------------------------------------------------------------------------------------

  /// @brief Normalizes x in the layer's mode; in training, updates the running statistics and the counter.
  /// @param[in] x  activations. @shape{(N, C, S...)} @param[out] y  may be x. @shape{same as x}
  /// @param[out] saved  for backward(); its memory is reused.
  /// @collective{one exchange, in training with more than one rank; the frames are listed at Exchange}
  /// @determinism{the same bits for any executor, layout and alignment; on all ranks for the statistics}
  /// @throws ShapeError, Error  on every rank alike, before any state changes. @throws CommunicatorError  see there.
  template <readable_by<Backend> X, class Y>
    requires writable_by<Y, Backend> && same_format_as<const X, Y>
  void forward(const X& x, Y&& y, Saved& saved) {
    run_forward(x, y, saved, true);
  }

  /// @brief As forward(x, y, saved), with memory of its own. @param x  activations. @param y  output. @return saved.
  template <readable_by<Backend> X, class Y>
    requires writable_by<Y, Backend> && same_format_as<const X, Y>
  [[nodiscard]] Saved forward(const X& x, Y&& y) {
    Saved saved;
    run_forward(x, y, saved, true);
    return saved;
  }

  /// @brief forward() that leaves running statistics and counter alone: to compute activations once more, as activation
  /// checkpointing does. Synchronized all the same. @param x  activations. @param y  output. @param saved  for backward().
  template <readable_by<Backend> X, class Y>
    requires writable_by<Y, Backend> && same_format_as<const X, Y>
  void forward_without_update(const X& x, Y&& y, Saved& saved) {
    run_forward(x, y, saved, false);
  }

  /// @brief Normalizes by running statistics, whatever the mode; by x's own where there are none. Never communicates;
  /// thread-safe. @param[in] x  activations. @shape{(N, C, S...)} @param[out] y  may be x. @shape{same as x}
  /// @throws ShapeError, Error  before anything is written.
  template <readable_by<Backend> X, class Y>
    requires writable_by<Y, Backend> && same_format_as<const X, Y>
  void infer(const X& x, Y&& y) const {
    const auto input = detail::read_only(view(x));
    const auto output = view(y);
    check_forward(input, output, state_->tracked);
    if (state_->tracked) {
      const ConstParameterView mean = running_mean();
      const ConstParameterView var = running_var();
      backend_.normalize(input,
                         detail::InferChannel<Parameter>{mean.data(), 1, var.data(), 1, options_.eps, weight().data(), 1,
                                                         bias().data(), 1},
                         output);
      return;
    }
    check_more_than_one_value(static_cast<double>(elements_per_channel(input)), shape_text(input.extents()));
    Backend backend = backend_;
    Moments<Backend> moments(channels());
    Statistics<Backend> statistics;
    accumulate(backend, input, moments);
    finalize(backend, moments, options_.eps, statistics);
    normalize(backend, input, statistics, weight(), bias(), output);
  }

  /// @brief The gradients: dx is written, weight_grad() and bias_grad() are added to.
  ///
  /// dx is that of the sum of all ranks' losses; the parameters' gradients are this rank's part of it, to be summed over
  /// ranks by whoever sums the other parameters' gradients.
  /// @param[in] dy  gradient of y. @shape{same as x} @param[in] x  as given to forward(). @param saved  from forward().
  /// @param[out] dx  may be dy, or no_gradient. @shape{same as x}
  /// @collective{one exchange if @p saved is of a synchronized forward(), also with no_gradient}
  /// @throws ShapeError, Error  on every rank alike, before any state changes. @throws CommunicatorError  see there.
  template <readable_by<Backend> D, readable_by<Backend> X, class DX>
    requires same_format_as<const D, const X> &&
             (std::same_as<std::remove_cvref_t<DX>, NoGradient> || writable_by<DX, Backend>)
  void backward(const D& dy, const X& x, const Saved& saved, DX&& dx) {
    constexpr bool wants_dx = !std::same_as<std::remove_cvref_t<DX>, NoGradient>;
    RankFailure failure;
    decltype(detail::read_only(view(dy))) gradient;
    decltype(detail::read_only(view(x))) input;
    failure.capture([&] {
      gradient = detail::read_only(view(dy));
      input = detail::read_only(view(x));
      detail::check_backward(gradient, input, saved.extents());
      if constexpr (wants_dx) detail::check_input_gradient(view(dx), gradient, input);
      local_sums_.reset(channels());
      global_sums_.reset(channels());
    });
    if (saved.synchronized) begin(input, "backward", 0, failure);
    failure.capture([&] { accumulate(backend_, gradient, input, saved.statistics, local_sums_); });
    if (saved.synchronized) {
      start_exchange(exchange_, backend_, local_sums_);
      finish_exchange(exchange_, backend_, global_sums_);
    } else {
      failure.rethrow();
    }
    if constexpr (wants_dx) {
      if (saved.batch_statistics) {
        finalize(backend_, saved.synchronized ? global_sums_ : local_sums_, saved.statistics, coefficients_);
        propagate(backend_, gradient, input, saved.statistics, coefficients_, weight(), dx);
      } else {
        propagate(backend_, gradient, saved.statistics, weight(), dx);
      }
    }
    add_parameter_gradients(backend_, local_sums_, saved.statistics,
                            flags_.weight_requires_grad ? weight_grad() : ParameterView(),
                            flags_.bias_requires_grad ? bias_grad() : ParameterView());
  }

  // ---- State ---------------------------------------------------------------------------------------------------------

  /// @brief C. @return as constructed.
  Index channels() const noexcept { return state_->channels; }
  /// @brief eps, momentum and what was asked for at construction. @return the options.
  const BatchNormOptions& options() const noexcept { return options_; }
  /// @brief Changes eps. @param eps  the same on every rank.
  void set_eps(double eps) noexcept { options_.eps = eps; }
  /// @brief Changes momentum. @param momentum  the same on every rank; empty: cumulative average.
  void set_momentum(std::optional<double> momentum) noexcept { options_.momentum = momentum; }

  /// @brief Scale. @return one per channel; a view of nothing where affine is false.
  ParameterView weight() noexcept { return detail::whole(state_->weight); }
  /// @copydoc weight()
  ConstParameterView weight() const noexcept { return detail::whole(std::as_const(state_->weight)); }
  /// @brief Offset. @return one per channel; a view of nothing where affine is false.
  ParameterView bias() noexcept { return detail::whole(state_->bias); }
  /// @copydoc bias()
  ConstParameterView bias() const noexcept { return detail::whole(std::as_const(state_->bias)); }
  /// @brief Accumulated gradient of weight. @return likewise.
  ParameterView weight_grad() noexcept { return detail::whole(state_->weight_grad); }
  /// @copydoc weight_grad()
  ConstParameterView weight_grad() const noexcept { return detail::whole(std::as_const(state_->weight_grad)); }
  /// @brief Accumulated gradient of bias. @return likewise.
  ParameterView bias_grad() noexcept { return detail::whole(state_->bias_grad); }
  /// @copydoc bias_grad()
  ConstParameterView bias_grad() const noexcept { return detail::whole(std::as_const(state_->bias_grad)); }
  /// @brief Running mean. @return one per channel; a view of nothing where there are no running statistics.
  ParameterView running_mean() noexcept { return detail::whole(state_->running_mean); }
  /// @copydoc running_mean()
  ConstParameterView running_mean() const noexcept { return detail::whole(std::as_const(state_->running_mean)); }
  /// @brief Running unbiased variance. @return likewise.
  ParameterView running_var() noexcept { return detail::whole(state_->running_var); }
  /// @copydoc running_var()
  ConstParameterView running_var() const noexcept { return detail::whole(std::as_const(state_->running_var)); }
  /// @brief Whether there are running statistics, as asked for at construction. @return true if so.
  bool has_running_stats() const noexcept { return state_->tracked; }
  /// @brief Training batches seen; those empty on all ranks do not count. @return 0 where nothing is tracked.
  std::int64_t num_batches_tracked() const { return state_->batches(backend_); }
  /// @brief Sets the counter. @param batches  the same on every rank. Nothing where nothing is tracked.
  void set_num_batches_tracked(std::int64_t batches) {
    if (state_->tracked) backend_.upload(&batches, Index{1}, state_->num_batches_tracked.data());
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
  /// @brief Zeroes weight_grad() and bias_grad().
  void zero_grad() { state_->zero_grad(backend_); }
  /// @brief Running mean 0, running variance 1, counter 0.
  void reset_running_stats() { state_->reset_running_stats(backend_); }
  /// @brief reset_running_stats(), weight 1, bias 0.
  void reset_parameters() { state_->reset_parameters(backend_); }

  // ---- Ranks ---------------------------------------------------------------------------------------------------------

  /// @brief The group. @return a handle.
  Communicator& communicator() noexcept { return exchange_.communicator(); }
  /// @copydoc communicator()
  const Communicator& communicator() const noexcept { return exchange_.communicator(); }
  /// @brief Another group from now on, as after a deadline: exchanges are counted from 0 again; state stays.
  /// @param communicator  the new group; every rank of it does the same.
  void set_communicator(Communicator communicator) { exchange_ = exchange_.with(std::move(communicator)); }
  /// @brief The exchange, for its options and its count. @return this layer's.
  Exchange<Communicator>& exchange() noexcept { return exchange_; }
  /// @copydoc exchange()
  const Exchange<Communicator>& exchange() const noexcept { return exchange_; }
  /// @brief Names the layer in messages and in headers. @param name  the same on every rank.
  void set_name(std::string name) { exchange_.set_name(std::move(name)); }
  /// @brief The device. @return this layer's.
  Backend& backend() noexcept { return backend_; }
  /// @copydoc backend()
  const Backend& backend() const noexcept { return backend_; }

 private:
  friend struct detail::LayerAccess;

  BatchNorm(Index channels, const BatchNormOptions& options, Exchange<Communicator> exchange, Backend backend)
      : options_(options), backend_(std::move(backend)), exchange_(std::move(exchange)) {
    if (channels < 0) {
      const std::string c = std::to_string(channels);
      throw Error("Trying to create tensor with negative dimension " + c + ": [" + c + "]");
    }
    state_ = std::make_shared<State>(channels, options);
    state_->reset_parameters(backend_);
    flags_.tracks = options.track_running_stats;
  }
  BatchNorm(const BatchNormOptions& options, Exchange<Communicator> exchange, Backend backend,
            std::shared_ptr<State> state, const detail::LayerFlags& flags)
      : options_(options),
        backend_(std::move(backend)),
        exchange_(std::move(exchange)),
        state_(std::move(state)),
        flags_(flags) {}

  template <class X, class Y>
  void run_forward(const X& x, Y& y, Saved& saved, bool update) {
    if (flags_.training || !state_->tracked) {
      normalize_by_batch(x, y, saved, update && flags_.training && flags_.tracks && state_->tracked);
    } else {
      normalize_by_running(x, y, saved);
    }
  }

  template <class X, class Y>
  void normalize_by_running(const X& x, Y& y, Saved& saved) {
    const auto input = detail::read_only(view(x));
    const auto output = view(y);
    check_forward(input, output, true);
    saved.prepare(input);
    saved.batch_statistics = false;
    saved.synchronized = false;
    use_running<Backend, Parameter>(backend_, running_mean(), running_var(), options_.eps, saved.statistics);
    normalize(backend_, input, saved.statistics, weight(), bias(), output);
  }

  // view, validate, accumulate, exchange, finalize, normalize, commit.
  template <class X, class Y>
  void normalize_by_batch(const X& x, Y& y, Saved& saved, bool update) {
    const bool synchronized = flags_.training && communicator().size() > 1;
    RankFailure failure;
    decltype(detail::read_only(view(x))) input;
    decltype(view(y)) output;
    failure.capture([&] {
      input = detail::read_only(view(x));
      output = view(y);
      check_forward(input, output, update);
      saved.prepare(input);
      local_.reset(channels());
      if (synchronized) global_.reset(channels());
    });
    if (synchronized) begin(input, "forward", update ? 1 : 0, failure);
    failure.capture([&] { accumulate(backend_, input, local_); });
    double count = 0;
    if (synchronized) {
      start_exchange(exchange_, backend_, local_);
      count = finish_exchange(exchange_, backend_, local_, kind_of<X>(), global_);
      check_more_than_one_value(count, "1 (over all " + std::to_string(communicator().size()) + " ranks)");
    } else {
      failure.rethrow();
      count = static_cast<double>(elements_per_channel(input));
      check_more_than_one_value(count, shape_text(input.extents()));
    }
    finalize(backend_, synchronized ? global_ : local_, options_.eps, saved.statistics);
    saved.batch_statistics = true;
    saved.synchronized = synchronized;
    normalize(backend_, input, saved.statistics, weight(), bias(), output);
    if (update && count > 0) commit(saved.statistics);
  }

  void commit(const Statistics<Backend>& statistics) {
    const double momentum =
        options_.momentum ? *options_.momentum : 1 / static_cast<double>(num_batches_tracked() + 1);
    update_running(backend_, statistics, momentum, running_mean(), running_var());
    backend_.for_each_channel(Index{1}, detail::AddOne{state_->num_batches_tracked.data()});
  }

  template <class X>
  static constexpr ScalarKind kind_of() noexcept {
    return scalar_kind<typename view_t<const X>::value_type>::value;
  }

  template <class Input>
  void begin(const Input& input, const char* operation, unsigned update, RankFailure& failure) {
    ExchangeCall call;
    call.operation = operation;
    call.channels = channels();
    call.dims = Dims == any_dims ? -1 : static_cast<std::int64_t>(Dims);
    call.kind = scalar_kind<typename Input::value_type>::value;
    call.eps = options_.eps;
    call.momentum = options_.momentum.value_or(std::numeric_limits<double>::quiet_NaN());
    call.flags = (state_->affine ? 1U : 0U) | (flags_.tracks ? 2U : 0U) | (update << 2U);
    call.batches = state_->tracked ? num_batches_tracked() : -1;
    const double count = failure.failed() ? 0 : static_cast<double>(elements_per_channel(input));
    begin_exchange(exchange_, backend_, call, count, failure);
  }

  template <class Input, class Output>
  void check_forward(const Input& x, const Output& y, bool uses_running) const {
    check_rank<Dims>(x.rank());
    if (!always_alone<Communicator> && x.extent(1) == 0) {
      throw ShapeError("SyncBatchNorm number of input channels should be non-zero");
    }
    const char* first = uses_running && state_->tracked ? "running_mean" : state_->affine ? "weight" : "the layer";
    check_channels(first, channels(), x.extent(1));
    check_same_shape("y", y.extents(), "x", x.extents());
    check_no_self_overlap("y", y);
    check_overlap("y", y, "x", x);
  }

  BatchNormOptions options_;
  Backend backend_;
  Exchange<Communicator> exchange_;
  std::shared_ptr<State> state_;
  detail::LayerFlags flags_;
  // Reused by every pass.
  Moments<Backend> local_, global_;
  GradientSums<Backend> local_sums_, global_sums_;
  GradientCoefficients<Backend> coefficients_;
};

/// @brief Inputs (N, C) or (N, C, L).
template <class Backend = CpuBackend<float, SerialExecutor>, class Communicator = SingleProcessCommunicator>
using BatchNorm1d = BatchNorm<1, Backend, Communicator>;
/// @brief Inputs (N, C, H, W).
template <class Backend = CpuBackend<float, SerialExecutor>, class Communicator = SingleProcessCommunicator>
using BatchNorm2d = BatchNorm<2, Backend, Communicator>;
/// @brief Inputs (N, C, D, H, W).
template <class Backend = CpuBackend<float, SerialExecutor>, class Communicator = SingleProcessCommunicator>
using BatchNorm3d = BatchNorm<3, Backend, Communicator>;
/// @brief Inputs (N, C, S...), statistics over all ranks of the communicator.
template <class Backend, class Communicator>
using SyncBatchNorm = BatchNorm<any_dims, Backend, Communicator>;

}  // namespace syncbn::inline v0
