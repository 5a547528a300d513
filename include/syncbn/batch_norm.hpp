#pragma once

#include <memory>
#include <string>
#include <utility>

#include <syncbn/backends/single_process_communicator.hpp>
#include <syncbn/batch_norm_state.hpp>
#include <syncbn/check.hpp>
#include <syncbn/fwd.hpp>
#include <syncbn/saved.hpp>
#include <syncbn/together.hpp>
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
template <std::size_t Dims, class Backend, class Communicator>
class BatchNorm : public BatchNormState<Backend> {
  static_assert(check_communicator<Communicator>());
  static_assert(check_reaches_memory_of<Communicator, Backend>());
  static_assert(Dims == 1 || Dims == 2 || Dims == 3 || Dims == any_dims, "BatchNorm: Dims is 1, 2, 3 or any_dims");

  using State = BatchNormState<Backend>;

 public:
  using typename State::ConstParameterView;
  using typename State::Parameter;
  using typename State::ParameterView;
  using Saved = SavedForward<Backend>;       ///< what backward() needs
  static constexpr std::size_t dims = Dims;  ///< the template argument

  /// @brief A layer with weight 1, bias 0, running mean 0, running variance 1, counter 0, in training mode.
  /// @param channel_count  C. @param options  as PyTorch's. @param communicator  the group; every rank makes its layers in the
  /// same order, or names them (set_name). @param backend  the device.
  /// @throws Error if @p channel_count is negative.
  explicit BatchNorm(Index channel_count, BatchNormOptions options = {}, Communicator communicator = Communicator(),
                     Backend backend = Backend())
      : State(channel_count, options, std::move(backend)), exchange_(std::move(communicator)) {
    reserve_frames();
  }
  /// @brief A layer of its own with the same state. @param other  copied from.
  BatchNorm(const BatchNorm& other) : State(other), exchange_(other.exchange_) {}
  BatchNorm(BatchNorm&&) = default;  ///< The source may only be assigned to or destroyed afterwards.
  /// @brief As the copy constructor. @param other  copied from. @return *this.
  BatchNorm& operator=(const BatchNorm& other) { return *this = BatchNorm(other); }
  BatchNorm& operator=(BatchNorm&&) = default;  ///< As the move constructor. @return *this.
  ~BatchNorm() = default;

  using State::bias;
  using State::bias_grad;
  using State::channels;
  using State::has_running_stats;
  using State::num_batches_tracked;
  using State::running_mean;
  using State::running_var;
  using State::weight;
  using State::weight_grad;

  // ---- The passes ----------------------------------------------------------------------------------------------------

  /// @brief Normalizes x in the layer's mode; in training, updates the running statistics and the counter.
  /// @param[in] x  activations. @shape{(N, C, S...)} @param[out] y  may be x; undefined after an exception. @shape{same as x}
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
    check_forward(input, output, has_running_stats(), !has_running_stats());
    if (has_running_stats()) {
      const ConstParameterView mean = running_mean();
      const ConstParameterView var = running_var();
      backend_.normalize(input,
                         detail::InferChannel<Parameter>{mean.data(), 1, var.data(), 1, options_.eps, weight().data(),
                                                         1, bias().data(), 1},
                         output);
      return;
    }
    Backend backend = backend_;
    Moments<Backend> moments;
    Statistics<Backend> statistics;
    normalize_alone(backend, input, options_.eps, moments, statistics, weight(), bias(), output);
  }

  /// @brief The gradients: dx is written, weight_grad() and bias_grad() are added to.
  ///
  /// dx is that of the sum of all ranks' losses; the parameters' gradients are this rank's part of it, to be summed over
  /// ranks by whoever sums the other parameters' gradients.
  /// @param[in] dy  gradient of y. @shape{same as x} @param[in] x  as given to forward(). @param saved  from forward().
  /// @param[out] dx  may be dy; undefined after an exception; or no_gradient, where it is not wanted. @shape{same as x}
  /// @collective{one exchange if @p saved is of a synchronized forward(); with no_gradient too: others may want theirs}
  /// @throws ShapeError, Error  on every rank alike, before any state changes. @throws CommunicatorError  see there.
  template <readable_by<Backend> D, readable_by<Backend> X, class DX>
    requires same_format_as<const D, const X> &&
             (no_gradient_type<DX> || (writable_by<DX, Backend> && same_format_as<const X, DX>))
  void backward(const D& dy, const X& x, const Saved& saved, DX&& dx) {
    run_backward(dy, x, saved, dx);
  }

  // ---- Ranks ---------------------------------------------------------------------------------------------------------

  /// @brief The group. @return a handle.
  Communicator& communicator() noexcept { return exchange_.communicator(); }
  /// @copydoc communicator()
  const Communicator& communicator() const noexcept { return exchange_.communicator(); }
  /// @brief Another group from now on, as after a deadline: exchanges are counted from 0 again; state stays.
  /// @param communicator  the new group; every rank of it does the same.
  void set_communicator(Communicator communicator) {
    exchange_ = exchange_.with(std::move(communicator));
    reserve_frames();
  }
  /// @brief The exchange, for its options and its count. @return this layer's.
  Exchange<Communicator>& exchange() noexcept { return exchange_; }
  /// @copydoc exchange()
  const Exchange<Communicator>& exchange() const noexcept { return exchange_; }
  /// @brief Names the layer in messages and in headers. @param name  the same on every rank.
  void set_name(std::string name) { exchange_.set_name(std::move(name)); }

 private:
  friend struct detail::LayerAccess;

  // For lazy layers, whose exchange exists before they know their channels.
  BatchNorm(Index channel_count, const BatchNormOptions& options, Exchange<Communicator> exchange,
            const Backend& backend)
      : State(channel_count, options, backend), exchange_(std::move(exchange)) {
    reserve_frames();
  }
  // For conversion: shares the storage of `other`.
  BatchNorm(const State& other, const std::shared_ptr<detail::StateStorage<Backend>>& shared,
            Exchange<Communicator> exchange)
      : State(other, shared), exchange_(std::move(exchange)) {
    reserve_frames();
  }

  // Frames are there before the first exchange, in which an allocation may fail on one rank alone.
  void reserve_frames() {
    if (communicator().size() > 1) exchange_.reserve(detail::words_per_channel * channels());
  }

  template <class X, class Y>
  void run_forward(const X& x, Y& y, Saved& saved, bool update) {
    if (flags_.training || !has_running_stats()) {
      normalize_by_batch(x, y, saved, update && flags_.training && flags_.tracks && has_running_stats());
    } else {
      normalize_by_running(x, y, saved);
    }
  }

  template <class X, class Y>
  void normalize_by_running(const X& x, Y& y, Saved& saved) {
    const auto input = detail::read_only(view(x));
    const auto output = view(y);
    check_forward(input, output, true, false);
    saved.prepare(input);
    saved.batch_statistics = false;
    saved.synchronized = false;
    use_running(backend_, running_mean(), running_var(), options_.eps, saved.statistics);
    normalize(backend_, input, saved.statistics, weight(), bias(), output);
  }

  // view, validate, (accumulate, exchange, finalize, normalize), commit.
  template <class X, class Y>
  void normalize_by_batch(const X& x, Y& y, Saved& saved, bool update) {
    const bool synchronized = flags_.training && communicator().size() > 1;
    RankFailure failure;
    decltype(detail::read_only(view(x))) input;
    decltype(view(y)) output;
    failure.capture([&] {
      input = detail::read_only(view(x));
      output = view(y);
      check_forward(input, output, update, !synchronized);
      saved.prepare(input);
    });
    double count = 0;
    if (synchronized) {
      begin(input, "forward", update, gains_from_blocks(backend_, input, output), failure);
      normalize_together(exchange_, backend_, input, options_.eps, local_, global_, saved.statistics, weight(), bias(),
                         output, failure);
      count = exchange_.total_count();
    } else {
      failure.rethrow();
      count = static_cast<double>(elements_per_channel(input));
      normalize_alone(backend_, input, options_.eps, local_, saved.statistics, weight(), bias(), output);
    }
    saved.batch_statistics = true;
    saved.synchronized = synchronized;
    if (update && count > 0) commit(saved.statistics);
  }

  void commit(const Statistics<Backend>& statistics) {
    const double momentum = options_.momentum ? *options_.momentum : 1 / static_cast<double>(num_batches_tracked() + 1);
    update_running(backend_, statistics, momentum, running_mean(), running_var());
    backend_.for_each_channel(Index{1}, detail::AddOne{storage_->num_batches_tracked.data()});
  }

  template <class D, class X, class DX>
  void run_backward(const D& dy, const X& x, const Saved& saved, DX& dx) {
    constexpr bool wants_dx = !no_gradient_type<DX>;
    const bool synchronized = saved.synchronized && communicator().size() > 1;
    RankFailure failure;
    decltype(detail::read_only(view(dy))) gradient;
    decltype(detail::read_only(view(x))) input;
    typename detail::view_or<DX, NoGradient>::type output;
    failure.capture([&] {
      gradient = detail::read_only(view(dy));
      input = detail::read_only(view(x));
      detail::check_backward(gradient, input, saved.extents());
      check_channels("the layer", channels(), input.extent(1));
      if constexpr (wants_dx) {
        output = view(dx);
        detail::check_input_gradient(output, gradient, input);
      }
      local_sums_.reset(channels());
      if (synchronized) global_sums_.reset(channels());
    });
    if (synchronized) {
      backward_together(gradient, input, saved, output, failure);
    } else {
      failure.rethrow();
      backward_alone(gradient, input, saved, output);
    }
    add_parameter_gradients(backend_, local_sums_, saved.statistics,
                            flags_.weight_requires_grad ? weight_grad() : ParameterView(),
                            flags_.bias_requires_grad ? bias_grad() : ParameterView());
  }

  // Output is NoGradient where dx is not wanted.
  template <class Gradient, class Input, class Output>
  void backward_together(const Gradient& dy, const Input& x, const Saved& saved, const Output& dx,
                         RankFailure& failure) {
    if constexpr (no_gradient_type<Output>) {
      begin(x, "backward", false, false, failure);
      failure.capture([&] { accumulate(backend_, dy, x, saved.statistics, local_sums_); });
      start_exchange(exchange_, backend_, local_sums_);
      finish_exchange(exchange_, backend_, global_sums_);
    } else {
      begin(x, "backward", false, gains_from_blocks(backend_, dy, x, dx), failure);
      propagate_together(exchange_, backend_, dy, x, saved.statistics, local_sums_, global_sums_, coefficients_,
                         weight(), dx, failure);
    }
  }

  template <class Gradient, class Input, class Output>
  void backward_alone(const Gradient& dy, const Input& x, const Saved& saved, const Output& dx) {
    if constexpr (!no_gradient_type<Output>) {
      if (saved.batch_statistics) {
        return propagate_alone(backend_, dy, x, saved.statistics, local_sums_, coefficients_, weight(), dx);
      }
    }
    accumulate(backend_, dy, x, saved.statistics, local_sums_);
    if constexpr (!no_gradient_type<Output>) propagate(backend_, dy, saved.statistics, weight(), dx);
  }

  template <class Input>
  void begin(const Input& input, const char* operation, bool update, bool by_blocks, RankFailure& failure) {
    const std::int64_t call_dims = Dims == any_dims ? -1 : static_cast<std::int64_t>(Dims);
    const ExchangeCall call =
        this->describe_call(operation, call_dims, scalar_kind<typename Input::value_type>::value, update);
    const double count = failure.failed() ? 0 : static_cast<double>(elements_per_channel(input));
    begin_exchange(exchange_, backend_, call, count, failure, by_blocks);
  }

  template <class Input, class Output>
  void check_forward(const Input& x, const Output& y, bool uses_running, bool takes_own_statistics) const {
    check_rank<Dims>(x.rank());
    if constexpr (!always_alone<Communicator>) check_some_channels(x.extent(1));
    if (takes_own_statistics) check_more_than_one_value(x);
    const char* first = uses_running && has_running_stats() ? "running_mean" : options_.affine ? "weight" : "the layer";
    check_channels(first, channels(), x.extent(1));
    detail::check_output(y, x);
  }

  using State::backend_;
  using State::flags_;
  using State::options_;
  using State::storage_;

  Exchange<Communicator> exchange_;
  // Reused by every pass.
  Moments<Backend> local_, global_;
  GradientSums<Backend> local_sums_, global_sums_;
  GradientCoefficients<Backend> coefficients_;
};

}  // namespace syncbn::inline v0
