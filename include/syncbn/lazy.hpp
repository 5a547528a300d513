#pragma once

#include <optional>
#include <ostream>
#include <string>
#include <utility>

#include <syncbn/detail/layer_access.hpp>
#include <syncbn/print.hpp>

namespace syncbn::inline v0 {

/// @brief A layer that learns its number of channels from its first input. Until then it has no parameters.
///
/// The first forward() validates on all ranks and only then materialises: an input that is rejected leaves the layer as
/// it was. Afterwards it is an ordinary layer: layer().
/// @tparam Dims  as BatchNorm's. @tparam Backend  likewise. @tparam Communicator  likewise; synchronized layers too.
template <std::size_t Dims, class Backend, class Communicator>
class LazyBatchNorm {
 public:
  using Layer = BatchNorm<Dims, Backend, Communicator>;  ///< what it becomes
  using Saved = typename Layer::Saved;                   ///< what backward() needs

  /// @brief A layer without channels. @param options  as BatchNorm's. @param communicator  the group.
  /// @param backend  the device.
  explicit LazyBatchNorm(BatchNormOptions options = {}, Communicator communicator = Communicator(),
                         Backend backend = Backend())
      : options_(options), backend_(std::move(backend)), exchange_(std::move(communicator)) {}

  /// @brief Whether the number of channels is known. @return true after the first forward() or materialize().
  bool is_materialized() const noexcept { return layer_.has_value(); }
  /// @brief The layer that it has become. @return the layer. @throws Error before that.
  Layer& layer() {
    if (!layer_) throw_uninitialized();
    return *layer_;
  }
  /// @copydoc layer()
  const Layer& layer() const {
    if (!layer_) throw_uninitialized();
    return *layer_;
  }
  /// @brief Makes the layer, with parameters as after reset_parameters(). Nothing if there is one.
  /// @param channels  C. @throws Error if negative.
  void materialize(Index channels) {
    if (!layer_) layer_.emplace(make(channels));
  }

  /// @brief BatchNorm::forward(); the first one materialises, in evaluation mode and with an empty batch too.
  /// @param x  activations. @shape{(N, C, S...)} @param y  may be x. @param saved  for backward().
  /// @collective{as BatchNorm::forward()} @throws as BatchNorm::forward(), leaving the layer as it was.
  template <readable_by<Backend> X, class Y>
    requires writable_by<Y, Backend> && same_format_as<const X, Y>
  void forward(const X& x, Y&& y, Saved& saved) {
    if (layer_) return layer_->forward(x, y, saved);
    RankFailure failure;
    std::optional<Layer> candidate;
    failure.capture([&] {
      const auto input = view(x);
      // An input without a channel dimension is rejected by the candidate itself, together with the other ranks.
      candidate.emplace(make(input.rank() < 2 ? 0 : input.extent(1)));
    });
    if (failure.failed()) throw_with_others(failure, scalar_kind<typename view_t<const X>::value_type>::value);
    candidate->forward(x, y, saved);
    layer_ = std::move(candidate);
  }

  /// @brief As above, with memory of its own. @param x  activations. @param y  output. @return saved.
  template <readable_by<Backend> X, class Y>
    requires writable_by<Y, Backend> && same_format_as<const X, Y>
  [[nodiscard]] Saved forward(const X& x, Y&& y) {
    Saved saved;
    forward(x, y, saved);
    return saved;
  }

  /// @brief BatchNorm::backward(). @param dy  gradient of y. @param x  activations. @param saved  from forward().
  /// @param dx  may be dy, or no_gradient. @throws Error before the first forward().
  template <class D, class X, class DX>
  void backward(const D& dy, const X& x, const Saved& saved, DX&& dx) {
    layer().backward(dy, x, saved, dx);
  }

  /// @brief BatchNorm::infer(). @param x  activations. @param y  may be x. @throws Error before the first forward().
  template <class X, class Y>
  void infer(const X& x, Y&& y) const {
    layer().infer(x, y);
  }

  /// @brief What it was constructed with. @return the options.
  const BatchNormOptions& options() const noexcept { return options_; }
  /// @brief The device. @return a layer's before and after.
  Backend& backend() noexcept { return layer_ ? layer_->backend() : backend_; }
  /// @brief Training or evaluation. @param mode  false: evaluation.
  void train(bool mode = true) noexcept {
    flags_.training = mode;
    if (layer_) layer_->train(mode);
  }
  /// @brief The same as train(false).
  void eval() noexcept { train(false); }
  /// @brief The mode. @return true in training.
  bool is_training() const noexcept { return layer_ ? layer_->is_training() : flags_.training; }
  /// @brief Names the layer. @param name  the same on every rank.
  void set_name(const std::string& name) {
    exchange_.set_name(name);
    if (layer_) layer_->set_name(name);
  }
  /// @brief BatchNorm::reset_parameters(); nothing before the first forward().
  void reset_parameters() {
    if (layer_) layer_->reset_parameters();
  }
  /// @brief BatchNorm::reset_running_stats(). @throws Error before the first forward(), if statistics are tracked.
  void reset_running_stats() {
    if (layer_) return layer_->reset_running_stats();
    if (options_.track_running_stats) throw_uninitialized();
  }

  /// @brief The same lazy layer in another group; a materialised one shares its state with the old. @param communicator
  /// the group. @return the new layer.
  template <class To>
  LazyBatchNorm<Dims, Backend, To> with_communicator(const To& communicator) const {
    // One number in the group, whether there is a layer or not: other ranks may not have one yet.
    const Exchange<To> exchange = (layer_ ? layer_->exchange() : exchange_).with(communicator);
    LazyBatchNorm<Dims, Backend, To> result(options_, backend_, exchange);
    result.flags_ = flags_;
    if (layer_) result.layer_.emplace(detail::LayerAccess::share(*layer_, exchange));
    return result;
  }

 private:
  template <std::size_t, class, class>
  friend class LazyBatchNorm;

  LazyBatchNorm(const BatchNormOptions& options, const Backend& backend, Exchange<Communicator> exchange)
      : options_(options), backend_(backend), exchange_(std::move(exchange)) {}

  Layer make(Index channels) const {
    Layer result = detail::LayerAccess::make<Dims>(channels, options_, exchange_, backend_);
    result.train(flags_.training);
    return result;
  }

  // This rank cannot even make a layer: it tells the others, who are in their first exchange.
  [[noreturn]] void throw_with_others(RankFailure& failure, ScalarKind kind) {
    if constexpr (!always_alone<Communicator>) {
      if (flags_.training && exchange_.communicator().size() > 1) {
        ExchangeCall call;
        call.operation = "forward";
        call.kind = kind;
        detail::fail_together(exchange_, backend_, call, failure);
      }
    }
    failure.rethrow();
    throw Error(std::string(failure.message()));
  }

  [[noreturn]] static void throw_uninitialized() {
    throw Error("a lazy layer has no parameters before its first forward()");
  }

  BatchNormOptions options_;
  Backend backend_;
  Exchange<Communicator> exchange_;
  detail::LayerFlags flags_;
  std::optional<Layer> layer_;
};

/// @brief A layer as Python prints it; before its first input `LazyBatchNorm2d(0, eps=1e-05, ...)`.
/// @param layer  any. @return the text.
template <std::size_t Dims, class Backend, class Communicator>
std::string to_string(const LazyBatchNorm<Dims, Backend, Communicator>& layer) {
  if (layer.is_materialized()) return to_string(layer.layer());
  const BatchNormOptions& options = layer.options();
  return "Lazy" + detail::class_name<Dims, Communicator>() +
         detail::arguments_text(0, options, options.track_running_stats);
}

/// @brief Prints to_string(). @param out  a stream. @param layer  any. @return @p out.
template <std::size_t Dims, class Backend, class Communicator>
std::ostream& operator<<(std::ostream& out, const LazyBatchNorm<Dims, Backend, Communicator>& layer) {
  return out << to_string(layer);
}

}  // namespace syncbn::inline v0
