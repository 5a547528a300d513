#pragma once

#include <memory>
#include <string_view>
#include <utility>

#include <syncbn/batch_norm_state.hpp>
#include <syncbn/check.hpp>
#include <syncbn/exchange.hpp>
#include <syncbn/saved.hpp>
#include <syncbn/together.hpp>
#include <syncbn/validation.hpp>

// What a layer does: its passes, composed of the free functions, between its state and its exchange.

namespace syncbn::inline v0::detail {

template <std::size_t Dims, class Backend, class Communicator, class Storage>
class BatchNormPasses : public BatchNormState<Backend, Storage> {
  static_assert(check_communicator<Communicator>());
  static_assert(check_reaches_memory_of<Communicator, Backend>());
  static_assert(Dims == 1 || Dims == 2 || Dims == 3 || Dims == any_dims, "BatchNorm: Dims is 1, 2, 3 or any_dims");

 protected:
  using State = BatchNormState<Backend, Storage>;

 public:
  using State::bias;
  using State::bias_grad;
  using State::channels;
  using State::has_running_stats;
  using State::num_batches_tracked;
  using State::running_mean;
  using State::running_var;
  using State::weight;
  using State::weight_grad;

 protected:
  using typename State::ConstParameterView;
  using typename State::Parameter;
  using typename State::ParameterView;
  using Saved = SavedForward<Backend>;

  // A layer that cannot be made takes no number in the group: the state comes first.
  BatchNormPasses(Index channel_count, const BatchNormOptions& options, Communicator communicator, Backend backend)
      : State(channel_count, options, std::move(backend)), exchange_(std::move(communicator)) {
    reserve_frames();
  }
  BatchNormPasses(Index channel_count, const BatchNormOptions& options, Exchange<Communicator> exchange,
                  Backend backend)
      : State(channel_count, options, std::move(backend)), exchange_(std::move(exchange)) {
    reserve_frames();
  }
  // Shares the storage of `other`.
  BatchNormPasses(const State& other, const std::shared_ptr<Storage>& shared, Exchange<Communicator> exchange)
      : State(other, shared), exchange_(std::move(exchange)) {
    reserve_frames();
  }
  // Working memory is not copied.
  BatchNormPasses(const BatchNormPasses& other) : State(other), exchange_(other.exchange_) {}
  BatchNormPasses(BatchNormPasses&&) = default;
  BatchNormPasses& operator=(const BatchNormPasses& other) { return *this = BatchNormPasses(other); }
  BatchNormPasses& operator=(BatchNormPasses&&) = default;
  ~BatchNormPasses() = default;

  void change_group(Communicator communicator) {
    exchange_ = exchange_.with(std::move(communicator));
    reserve_frames();
  }

  // Frames are there before the first exchange, in which an allocation may fail on one rank alone.
  void reserve_frames() {
    if (exchange_.communicator().size() > 1) exchange_.reserve(words_per_channel * channels());
  }

  template <class X, class Y>
  void run_infer(const X& x, Y& y) const {
    const auto input = read_only(view(x));
    const auto output = view(y);
    check_forward(input, output, has_running_stats(), !has_running_stats());
    if (has_running_stats()) {
      const ConstParameterView mean = running_mean();
      const ConstParameterView var = running_var();
      backend_.normalize(
          input,
          InferChannel<Parameter>{mean.data(), 1, var.data(), 1, options_.eps, weight().data(), 1, bias().data(), 1},
          output);
      return;
    }
    Backend backend = backend_;
    Moments<Backend> moments;
    Statistics<Backend> statistics;
    normalize_alone(backend, input, options_.eps, moments, statistics, weight(), bias(), output);
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
    const auto input = read_only(view(x));
    const auto output = view(y);
    check_forward(input, output, true, false);
    saved.prepare(backend_, input);
    saved.batch_statistics = false;
    saved.synchronized = false;
    use_running(backend_, running_mean(), running_var(), options_.eps, saved.statistics);
    normalize(backend_, input, saved.statistics, weight(), bias(), output);
  }

  // view, validate, (accumulate, exchange, finalize, normalize), commit.
  template <class X, class Y>
  void normalize_by_batch(const X& x, Y& y, Saved& saved, bool update) {
    const bool synchronized = flags_.training && exchange_.communicator().size() > 1;
    RankFailure failure;
    decltype(read_only(view(x))) input;
    decltype(view(y)) output;
    failure.capture([&] {
      input = read_only(view(x));
      output = view(y);
      check_forward(input, output, update, !synchronized);
      saved.prepare(backend_, input);
    });
    double count = 0;
    if (synchronized) {
      count = forward_together(input, saved, output, update, failure);
    } else {
      failure.rethrow();
      count = static_cast<double>(elements_per_channel(input));
      normalize_alone(backend_, input, options_.eps, local_, saved.statistics, weight(), bias(), output);
    }
    saved.batch_statistics = true;
    saved.synchronized = synchronized;
    // Whether there were values is known to the statistics, where they are of channels.
    if (update && (channels() > 0 || count > 0)) commit(saved.statistics);
    if (synchronized) tell_what_is_known();
  }

  // What earlier calls have come to, once this one is done: ranks that know it later have done it, too.
  void tell_what_is_known() {
    if constexpr (defers_errors<Communicator>) exchange_.check(backend_.queue());
  }

  // Returns the values per channel on all ranks, where they are known.
  template <class Input, class Output>
  double forward_together(const Input& x, Saved& saved, const Output& y, bool update, RankFailure& failure) {
    if constexpr (!always_alone<Communicator>) {
      begin(x, "forward", update, !failure.failed() && gains_from_blocks(backend_, x, y), failure);
      normalize_together(exchange_, backend_, x, options_.eps, local_, global_, saved.statistics, weight(), bias(), y,
                         failure);
    }
    if constexpr (defers_errors<Communicator>) {
      return 0;
    } else {
      return exchange_.total_count();
    }
  }

  void commit(const Statistics<Backend>& statistics) {
    std::int64_t* const batches = storage_->num_batches_tracked.data();
    update_running(backend_, statistics, options_.momentum.value_or(0), running_mean(), running_var(),
                   options_.momentum ? nullptr : batches);
    backend_.for_each_channel(Index{1}, CountBatch{channels() > 0 ? statistics.count() : nullptr, batches});
  }

  template <class D, class X, class DX>
  void run_backward(const D& dy, const X& x, const Saved& saved, DX& dx) {
    constexpr bool wants_dx = !no_gradient_type<DX>;
    const bool synchronized = saved.synchronized && exchange_.communicator().size() > 1;
    RankFailure failure;
    decltype(read_only(view(dy))) gradient;
    decltype(read_only(view(x))) input;
    typename view_or<DX, NoGradient>::type output;
    failure.capture([&] {
      gradient = read_only(view(dy));
      input = read_only(view(x));
      if constexpr (requires { storage_->check_borrowed(true); }) storage_->check_borrowed(true);
      check_backward(gradient, input, saved.extents());
      check_channels("the layer", channels(), input.extent(1));
      if constexpr (wants_dx) {
        output = view(dx);
        check_input_gradient(output, gradient, input);
      }
      local_sums_.resize(backend_, channels());
      if (synchronized) global_sums_.resize(backend_, channels());
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
    if (synchronized) tell_what_is_known();
  }

  // Output is NoGradient where dx is not wanted.
  template <class Gradient, class Input, class Output>
  void backward_together(const Gradient& dy, const Input& x, const Saved& saved, const Output& dx,
                         RankFailure& failure) {
    if constexpr (always_alone<Communicator>) {
      return;
    } else if constexpr (no_gradient_type<Output>) {
      begin(x, "backward", false, false, failure);
      failure.capture([&] {
        local_sums_.reset(backend_, channels());
        accumulate(backend_, dy, x, saved.statistics, local_sums_);
      });
      start_exchange(exchange_, backend_, local_sums_);
      finish_exchange(exchange_, backend_, local_sums_, global_sums_);
      if constexpr (defers_errors<Communicator>) failure.rethrow();
    } else {
      begin(x, "backward", false, !failure.failed() && gains_from_blocks(backend_, dy, x, dx), failure);
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
    local_sums_.reset(backend_, channels());
    accumulate(backend_, dy, x, saved.statistics, local_sums_);
    if constexpr (!no_gradient_type<Output>) propagate(backend_, dy, saved.statistics, weight(), dx);
  }

  template <class Input>
  void begin(const Input& input, const char* operation, bool update, bool by_blocks, RankFailure& failure) {
    const std::int64_t call_dims = Dims == any_dims ? -1 : static_cast<std::int64_t>(Dims);
    constexpr bool waits = !defers_errors<Communicator>;
    ExchangeCall call = this->describe_call(operation, call_dims, scalar_kind<typename Input::value_type>::value,
                                            update, waits, failure);
    call.needs_several_values = std::string_view(operation) == "forward";
    const double count = failure.failed() ? 0 : static_cast<double>(elements_per_channel(input));
    begin_exchange(exchange_, backend_, call, count, failure, by_blocks);
  }

  template <class Input, class Output>
  void check_forward(const Input& x, const Output& y, bool uses_running, bool takes_own_statistics) const {
    if constexpr (requires { storage_->check_borrowed(); }) storage_->check_borrowed();
    check_rank<Dims>(x.rank());
    if constexpr (!always_alone<Communicator>) check_some_channels(x.extent(1));
    if (takes_own_statistics) check_more_than_one_value(x);
    const char* first = uses_running && has_running_stats() ? "running_mean" : options_.affine ? "weight" : "the layer";
    check_channels(first, channels(), x.extent(1));
    check_output(y, x);
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

}  // namespace syncbn::inline v0::detail
