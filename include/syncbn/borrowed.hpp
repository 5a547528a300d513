#pragma once

#include <cstdint>
#include <span>
#include <string>

#include <syncbn/batch_norm.hpp>

/// @file
/// Layers for frameworks that own parameters and running statistics themselves, in tensors of their own, which they save,
/// replace and hand to optimizers: `BorrowingBatchNorm` is `BatchNorm`, passes, ranks and errors alike, without the memory.

namespace syncbn::inline v0 {

/// @brief The per-channel tensors of a layer, in memory of the backend that somebody else owns, without gaps.
///
/// Gradients may be absent where no backward pass is made, or they are not wanted; the others have to be there as the
/// layer's options say. num_batches_tracked is one integer.
/// @tparam Backend  in whose memory they lie; its parameter type is theirs.
template <class Backend>
struct BorrowedTensors {
  using P = typename Backend::parameter_type;  ///< float or double

  std::span<P> weight{};                          ///< with the option affine
  std::span<P> bias{};                            ///< with the option affine
  std::span<P> weight_grad{};                     ///< is added to
  std::span<P> bias_grad{};                       ///< is added to
  std::span<P> running_mean{};                    ///< with the option track_running_stats
  std::span<P> running_var{};                     ///< with the option track_running_stats
  std::span<std::int64_t> num_batches_tracked{};  ///< with the option track_running_stats
};

namespace detail {

// In place of StateStorage.
template <class Backend>
struct BorrowedStorage : BorrowedTensors<Backend> {
  Index channels;
  bool affine;
  bool tracked;
  bool borrowed = false;               // for any pass
  bool borrowed_for_backward = false;  // for that at least

  BorrowedStorage(Backend&, Index channel_count, const BatchNormOptions& options)
      : channels(channel_count), affine(options.affine), tracked(options.track_running_stats) {}

  void take(const BorrowedTensors<Backend>& tensors) {
    check("weight", tensors.weight.size(), affine, channels);
    check("bias", tensors.bias.size(), affine, channels);
    check_gradients(tensors.weight_grad, tensors.bias_grad);
    check("running_mean", tensors.running_mean.size(), tracked, channels);
    check("running_var", tensors.running_var.size(), tracked, channels);
    check("num_batches_tracked", tensors.num_batches_tracked.size(), tracked, 1);
    static_cast<BorrowedTensors<Backend>&>(*this) = tensors;
    borrowed = borrowed_for_backward = true;
  }
  using Values = std::span<typename Backend::parameter_type>;
  void take_for_backward(Values its_weight, Values for_weight, Values for_bias) {
    check("weight", its_weight.size(), affine, channels);
    check_gradients(for_weight, for_bias);
    this->weight = its_weight;
    this->weight_grad = for_weight;
    this->bias_grad = for_bias;
    borrowed_for_backward = true;
  }
  void check_borrowed(bool for_backward = false) const {
    if (for_backward ? borrowed_for_backward : borrowed) return;
    throw Error("a layer without memory of its own was called before borrow()");
  }

  std::int64_t batches(const Backend& backend) const {
    std::int64_t value = 0;
    if (!this->num_batches_tracked.empty()) backend.download(this->num_batches_tracked.data(), Index{1}, &value);
    return value;
  }

 private:
  static void check(const char* name, std::size_t has, bool wanted, Index size) {
    if (has == static_cast<std::size_t>(wanted ? size : 0)) return;
    throw Error(std::string(name) + " has " + std::to_string(has) + " elements where the layer needs " +
                std::to_string(wanted ? size : 0));
  }
  void check_gradients(Values for_weight, Values for_bias) const {
    if (!for_weight.empty()) check("weight_grad", for_weight.size(), affine, channels);
    if (!for_bias.empty()) check("bias_grad", for_bias.size(), affine, channels);
  }
};

}  // namespace detail

}  // namespace syncbn::inline v0
