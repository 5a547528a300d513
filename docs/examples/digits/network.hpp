#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <syncbn/syncbn.hpp>

#include "activations.hpp"
#include "convolution.hpp"
#include "dataset.hpp"
#include "feature_maps.hpp"
#include "linear.hpp"
#include "parameters.hpp"
#include "place.hpp"

/// @file
/// The network: three blocks of convolution, batch normalization and ReLU, and a linear layer.

namespace digits {

/// @brief Convolution, batch normalization, ReLU, with what the backward pass needs.
/// @tparam Communicator  spans the ranks that the statistics of the batch are taken over.
template <class T, class Communicator>
struct Block {
  using Norm = NormOf<T, Communicator>;

  Convolution<T> convolution;
  Norm norm;
  typename Norm::Saved saved;         // what norm.backward() needs of norm.forward()
  FeatureMaps<T> convolved;           // (N, K, H', W')
  FeatureMaps<T> activated;           // (N, K, H', W')
  FeatureMaps<T> activated_gradient;  // (N, K, H', W'), to be filled by whoever uses `activated`
  FeatureMaps<T> convolved_gradient;  // (N, K, H', W')

  /// @param inputs, outputs, size, stride, random  as for Convolution. @param communicator  as above.
  Block(Index inputs, Index outputs, Index size, Index stride, const Communicator& communicator,
        std::mt19937_64& random)
      : convolution(inputs, outputs, size, stride, random), norm(outputs, {}, communicator) {}

  /// @param[in] x  @shape{(N, inputs, H, W)} @return @shape{(N, outputs, H / stride, W / stride)}
  /// @collective{one exchange, of the statistics}
  const FeatureMaps<T>& forward(const FeatureMaps<T>& x) {
    convolution.forward(x, convolved);
    activated.reshape_like(convolved);
    activated_gradient.reshape_like(convolved);
    convolved_gradient.reshape_like(convolved);
    norm.forward(convolved, activated, saved);  // (N, K, H', W') -> (N, K, H', W')
    rectify(activated);
    return activated;
  }

  /// @brief From `activated_gradient` to the gradients of the parameters and of the input.
  /// @param[out] dx  @shape{as x of forward(), which it must have}; null: not wanted.
  /// @collective{one exchange, of two sums per channel}
  void backward(FeatureMaps<T>* dx) {
    rectify_gradient(activated, activated_gradient);
    norm.backward(activated_gradient, convolved, saved, convolved_gradient);  // all (N, K, H', W')
    dx == nullptr ? convolution.backward(convolved_gradient) : convolution.backward(convolved_gradient, *dx);
  }

  /// @brief With the running statistics; changes nothing and talks to nobody.
  /// @param[in] x  as in forward(). @return as in forward().
  [[nodiscard]] FeatureMaps<T> infer(const FeatureMaps<T>& x) const {
    FeatureMaps<T> y;
    convolution.infer(x, y);
    norm.infer(y, y);
    rectify(y);
    return y;
  }

  /// @brief Appends the parameters of the convolution and of the batch normalization.
  void list_parameters(const std::string& prefix, std::vector<Parameter<T>>& list) {
    const auto numbers = [](auto view) { return std::span(view.data(), static_cast<std::size_t>(view.extent(0))); };
    convolution.list_parameters(prefix + ".convolution", list);
    list.push_back({prefix + ".norm.weight", numbers(norm.weight()), numbers(norm.weight_grad())});
    list.push_back({prefix + ".norm.bias", numbers(norm.bias()), numbers(norm.bias_grad())});
  }
};

/// @brief From images of 8 x 8 pixels to ten scores.
template <class T, class Communicator>
class Network {
 public:
  /// @param communicator  the ranks that every batch is spread over.
  /// @param seed          fixes the initial parameters: the same on all ranks.
  Network(const Communicator& communicator, std::uint64_t seed) : Network(communicator, std::mt19937_64(seed)) {}

  /// @param[in] images  this rank's part of the batch; may be empty. @shape{(N, 1, 8, 8)} @return @shape{(N, 10)}
  /// @collective{one exchange per block}
  const Matrix<T>& forward(const FeatureMaps<T>& images) {
    const FeatureMaps<T>* x = &images;
    for (auto& block : blocks_) x = &block.forward(*x);
    linear_.forward(*x, logits_);
    return logits_;
  }

  /// @brief Adds to the gradients of all parameters.
  /// @param[in] dlogits  gradient of the loss by the last result of forward(). @shape{(N, 10)}
  /// @collective{one exchange per block}
  void backward(const Matrix<T>& dlogits) {
    linear_.backward(blocks_.back().activated, dlogits, blocks_.back().activated_gradient);
    for (std::size_t i = blocks_.size(); i-- > 0;) {
      blocks_[i].backward(i == 0 ? nullptr : &blocks_[i - 1].activated_gradient);
    }
  }

  /// @brief The scores of a trained network; no exchange.
  /// @param[in] images  @shape{(N, 1, 8, 8)} @return @shape{(N, 10)}
  [[nodiscard]] Matrix<T> infer(const FeatureMaps<T>& images) const {
    FeatureMaps<T> x = images;
    for (const auto& block : blocks_) x = block.infer(x);
    Matrix<T> logits;
    linear_.forward(x, logits);
    return logits;
  }

  /// @brief All parameters, in a fixed order; valid as long as the network stays where it is.
  [[nodiscard]] std::vector<Parameter<T>> parameters() {
    std::vector<Parameter<T>> list;
    for (std::size_t i = 0; i < blocks_.size(); ++i) blocks_[i].list_parameters("block" + std::to_string(i + 1), list);
    linear_.list_parameters("linear", list);
    return list;
  }

  /// @brief Its layers, for analysis. @{
  [[nodiscard]] auto& blocks() { return blocks_; }
  [[nodiscard]] const Linear<T>& linear() const { return linear_; }
  [[nodiscard]] const Matrix<T>& logits() const { return logits_; }
  /// @}

 private:
  Network(const Communicator& communicator, std::mt19937_64 random)
      : blocks_{Block<T, Communicator>(1, 8, 8, 1, communicator, random),     // (N, 1, 8, 8) -> (N, 8, 8, 8)
                Block<T, Communicator>(8, 16, 8, 2, communicator, random),    // -> (N, 16, 4, 4)
                Block<T, Communicator>(16, 16, 4, 2, communicator, random)},  // -> (N, 16, 2, 2)
        linear_(16 * 2 * 2, classes, random) {}                               // -> (N, 10)

  std::array<Block<T, Communicator>, 3> blocks_;
  Linear<T> linear_;
  Matrix<T> logits_;  // (N, 10)
};

}  // namespace digits
