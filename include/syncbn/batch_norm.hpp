#pragma once

#include <concepts>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include <syncbn/backends/single_process_communicator.hpp>
#include <syncbn/batch_norm_state.hpp>
#include <syncbn/concepts.hpp>
#include <syncbn/detail/batch_norm_passes.hpp>
#include <syncbn/exchange.hpp>
#include <syncbn/fwd.hpp>
#include <syncbn/saved.hpp>

namespace syncbn::inline v0 {

/// @brief Batch normalization whose statistics span the ranks of a communicator.
///
/// For each channel, over (N, S..., ranks):
/// \f$ y = (x - \mathrm{mean}) / \sqrt{\mathrm{var} + \mathrm{eps}} \cdot \mathrm{weight} + \mathrm{bias} \f$.
/// Behaves as PyTorch's layers do; docs/conformance.md lists every point and the deliberate differences.
/// Copies are deep; a layer that was moved from may only be assigned to or destroyed. Use one layer from one thread at a
/// time (infer() alone is thread-safe).
/// @tparam Dims          spatial dimensions: 1 (or none), 2, 3, or any_dims.
/// @tparam Backend       where the arithmetic runs; its parameter type is that of the state.
/// @tparam Communicator  the group over which statistics are taken.
/// @tparam Storage       left at its default, the layer owns its tensors; BorrowingBatchNorm is the layer that does not.
/// @source{Ioffe and Szegedy 2015}
template <std::size_t Dims, class Backend, class Communicator, class Storage>
class BatchNorm : public detail::BatchNormPasses<Dims, Backend, Communicator, Storage> {
  using Passes = detail::BatchNormPasses<Dims, Backend, Communicator, Storage>;
  using State = BatchNormState<Backend, Storage>;

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
      : Passes(channel_count, options, std::move(communicator), std::move(backend)) {}

  // ---- The passes ----------------------------------------------------------------------------------------------------

  /// @brief Normalizes x in the layer's mode; in training, updates the running statistics and the counter.
  /// @param[in] x  activations. @shape{(N, C, S...)} @param[out] y  may be x; undefined after an exception. @shape{same as x}
  /// @param[out] saved  for backward(); its memory is reused; undefined after an exception.
  /// @collective{one exchange, in training with more than one rank; the frames are listed at Exchange}
  /// @determinism{the same bits for any executor, layout and alignment; on all ranks for the statistics}
  /// @throws ShapeError, Error  on every rank alike, before any state changes. @throws CommunicatorError  see there.
  template <readable_by<Backend> X, class Y>
    requires writable_by<Y, Backend> && same_format_as<const X, Y>
  void forward(const X& x, Y&& y, Saved& saved) {
    this->run_forward(x, y, saved, true);
  }

  /// @brief As forward(x, y, saved), with memory of its own. @param x  activations. @param y  output. @return saved.
  template <readable_by<Backend> X, class Y>
    requires writable_by<Y, Backend> && same_format_as<const X, Y>
  [[nodiscard]] Saved forward(const X& x, Y&& y) {
    Saved saved;
    this->run_forward(x, y, saved, true);
    return saved;
  }

  /// @brief forward() that leaves running statistics and counter alone: to compute activations once more, as activation
  /// checkpointing does. Synchronized all the same. @param x  activations. @param y  output. @param saved  for backward().
  template <readable_by<Backend> X, class Y>
    requires writable_by<Y, Backend> && same_format_as<const X, Y>
  void forward_without_update(const X& x, Y&& y, Saved& saved) {
    this->run_forward(x, y, saved, false);
  }

  /// @brief Normalizes by running statistics, whatever the mode; by x's own where there are none. Never communicates;
  /// thread-safe. @param[in] x  activations. @shape{(N, C, S...)} @param[out] y  may be x. @shape{same as x}
  /// @throws ShapeError, Error  before anything is written.
  template <readable_by<Backend> X, class Y>
    requires writable_by<Y, Backend> && same_format_as<const X, Y>
  void infer(const X& x, Y&& y) const {
    this->run_infer(x, y);
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
    this->run_backward(dy, x, saved, dx);
  }

  /// @brief What the next passes work on. @param tensors  of the sizes that the layer was made for; what they refer to
  /// outlives those passes. @throws Error if one has another size, or is missing where the options ask for it.
  void borrow(const BorrowedTensors<Backend>& tensors)
    requires std::same_as<Storage, detail::BorrowedStorage<Backend>>
  {
    storage_->take(tensors);
  }
  /// @brief What the next backward pass works on, for frameworks that make gradients only then; the rest stays as borrowed.
  /// @param weight  as of the forward pass. @param weight_grad  is added to, or empty. @param bias_grad  likewise.
  /// @throws Error if one has another size.
  void borrow_for_backward(std::span<Parameter> weight, std::span<Parameter> weight_grad,
                           std::span<Parameter> bias_grad)
    requires std::same_as<Storage, detail::BorrowedStorage<Backend>>
  {
    storage_->take_for_backward(weight, weight_grad, bias_grad);
  }

  // ---- Ranks ---------------------------------------------------------------------------------------------------------

  /// @brief The group. @return a handle.
  Communicator& communicator() noexcept { return exchange_.communicator(); }
  /// @copydoc communicator()
  const Communicator& communicator() const noexcept { return exchange_.communicator(); }
  /// @brief Another group from now on, as after a deadline: exchanges are counted from 0 again; state stays.
  /// @param communicator  the new group; every rank of it does the same.
  void set_communicator(Communicator communicator) { this->change_group(std::move(communicator)); }
  /// @brief The exchange, for its options and its count. @return this layer's.
  Exchange<Communicator>& exchange() noexcept { return exchange_; }
  /// @copydoc exchange()
  const Exchange<Communicator>& exchange() const noexcept { return exchange_; }
  /// @brief Throws what earlier calls have come to, as far as it is known; does not wait. Ends of forward() and backward() do
  /// the same. @throws as forward(). @throws CommunicatorError  if the fabric has failed, or a deadline has passed.
  void check()
    requires defers_errors<Communicator>
  {
    exchange_.check(this->backend().queue());
  }
  /// @brief Waits until the queue has done all that was put into it, as long as the communicator's deadline allows; then as
  /// check(). Ranks that call it at the same place throw together. @throws as check().
  void synchronize()
    requires defers_errors<Communicator>
  {
    exchange_.synchronize(this->backend().queue());
  }
  /// @brief Names the layer in messages and in headers. @param name  the same on every rank.
  void set_name(std::string name) { exchange_.set_name(std::move(name)); }

 private:
  friend struct detail::LayerAccess;

  // For lazy layers, whose exchange exists before they know their channels; and for conversion, which shares storage.
  BatchNorm(Index channel_count, const BatchNormOptions& options, Exchange<Communicator> exchange,
            const Backend& backend)
      : Passes(channel_count, options, std::move(exchange), backend) {}
  BatchNorm(const State& other, const std::shared_ptr<Storage>& shared, Exchange<Communicator> exchange)
      : Passes(other, shared, std::move(exchange)) {}

  using Passes::exchange_;
  using State::storage_;
};

}  // namespace syncbn::inline v0
