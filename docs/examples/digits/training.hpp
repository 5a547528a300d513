#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "activations.hpp"
#include "dataset.hpp"
#include "network.hpp"
#include "optimizer.hpp"
#include "parameters.hpp"
#include "progress.hpp"
#include "shards.hpp"
#include "timed_communicator.hpp"

/// @file
/// Training on one rank, alone or among others.

namespace digits {

/// @brief How to train.
///
/// Rounding grows as training goes on: hardly at this learning rate, a thousandfold at four times it. In f32 there is
/// one thing more: where the input of a ReLU lies within rounding of 0, rounding decides what it does, and parameters
/// that differed by 1e-6 differ by 1e-3 from then on. The seed is one with which that does not happen.
struct Recipe {
  int epochs = 8;
  Index batch_size = 32;
  double learning_rate = 0.05;
  double momentum = 0.9;
  std::uint64_t seed = 60;

  /// @brief Steps in all. @param samples  images to learn from. @return the last batch of an epoch may be smaller.
  [[nodiscard]] Index steps(Index samples) const { return epochs * ((samples + batch_size - 1) / batch_size); }
};

/// @brief Calls @p f(epoch, batch) for every batch, which is given as the numbers of its samples.
template <class F>
void for_each_batch(Index samples, const Recipe& recipe, F f) {
  for (int epoch = 0; epoch < recipe.epochs; ++epoch) {
    const std::vector<Index> order = shuffled_order(samples, recipe.seed, epoch);
    for (Index first = 0; first < samples; first += recipe.batch_size) {
      const Index size = std::min(recipe.batch_size, samples - first);
      f(epoch, std::span(order).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(size)));
    }
  }
}

/// @brief A network with its optimizer, on one of several ranks.
/// @tparam Statistics  a communicator over the ranks that share the statistics of batch normalization.
/// @tparam World       a communicator over all ranks, which share the batch.
template <class T, class Statistics, class World>
class Trainer {
 public:
  /// @param recipe  as for all ranks. @param statistics, world  as above.
  Trainer(const Recipe& recipe, const Statistics& statistics, World world)
      : network_(statistics, recipe.seed),
        parameters_(network_.parameters()),
        optimizer_(recipe.learning_rate, recipe.momentum),
        world_(std::move(world)) {
    optimizer_.velocity().resize(values_of<T>(parameters_).size());
  }

  Trainer(const Trainer&) = delete;  // parameters_ points into network_
  Trainer& operator=(const Trainer&) = delete;

  /// @brief Forward and backward on this rank's part of a batch; sums gradients and score over the ranks.
  /// @param images      where the samples are. @param shard  this rank's samples, perhaps none.
  /// @param batch_size  samples on all ranks. @return the score of the whole batch.
  /// @collective{the exchanges of the batch normalizations, and one all-reduce}
  Score find_gradients(const Images& images, std::span<const Index> shard, Index batch_size) {
    gather(images, shard, input_, labels_);
    zero_gradients<T>(parameters_);
    const Score part = softmax_cross_entropy(network_.forward(input_), labels_, batch_size, dlogits_);
    network_.backward(dlogits_);
    std::array sums{part.loss, part.correct};
    sum_gradients<T>(world_, parameters_, sums);
    return {.loss = sums[0], .correct = sums[1]};
  }

  /// @brief One step of the optimizer with these gradients.
  void update() { optimizer_.step(parameters_); }

  /// @brief Share of @p images that the network recognises.
  [[nodiscard]] double accuracy(const Images& images) const {
    std::vector<Index> all(images.labels.size());
    std::iota(all.begin(), all.end(), Index{0});
    FeatureMaps<T> input;
    std::vector<int> labels;
    gather(images, std::span<const Index>(all), input, labels);
    const Matrix<T> logits = network_.infer(input);
    Matrix<T> unused;
    return softmax_cross_entropy(logits, labels, images.size(), unused).correct / static_cast<double>(images.size());
  }

  /// @brief The state, for inspection and for copying. @{
  [[nodiscard]] auto& network() { return network_; }
  [[nodiscard]] std::span<const Parameter<T>> parameters() const { return parameters_; }
  [[nodiscard]] std::vector<T>& velocity() { return optimizer_.velocity(); }
  [[nodiscard]] const FeatureMaps<T>& input() const { return input_; }
  [[nodiscard]] const Matrix<T>& dlogits() const { return dlogits_; }
  /// @}

 private:
  Network<T, Statistics> network_;
  std::vector<Parameter<T>> parameters_;
  MomentumOptimizer<T> optimizer_;
  World world_;
  FeatureMaps<T> input_;     // (N, 1, 8, 8)
  std::vector<int> labels_;  // (N)
  Matrix<T> dlogits_;        // (N, 10)
};

/// @brief What came out of a training; the same on all ranks, but for running statistics that were local.
template <class T>
struct Training {
  std::vector<Score> epochs;      ///< mean loss and share of right answers, while learning
  double test_accuracy = 0.0;     ///< share of right answers among the test images, with the running statistics
  double seconds_per_step = 0.0;  ///< on this rank
  double exchange_share = 0.0;    ///< of that time, in the exchanges of batch normalization; filled by the caller
  std::vector<T> parameters;      ///< one after the other
};

/// @brief Trains a network as @p recipe says.
/// @param data                the digits. @param recipe  as for all ranks.
/// @param sharding            this rank's part of every batch.
/// @param statistics, world   as for Trainer.
/// @param progress            told of every step.
/// @return                    the result.
template <class T, class Statistics, class World>
Training<T> train(const Dataset& data, const Recipe& recipe, const Sharding& sharding, const Statistics& statistics,
                  const World& world, Progress& progress) {
  Trainer<T, Statistics, World> trainer(recipe, statistics, world);
  Training<T> result;
  result.epochs.resize(static_cast<std::size_t>(recipe.epochs));
  const double start = now();
  for_each_batch(data.train.size(), recipe, [&](int epoch, std::span<const Index> batch) {
    const Score score = trainer.find_gradients(data.train, sharding(batch), std::ssize(batch));
    trainer.update();
    Score& mean = result.epochs[static_cast<std::size_t>(epoch)];
    mean.loss += score.loss * static_cast<double>(batch.size()) / static_cast<double>(data.train.size());
    mean.correct += score.correct / static_cast<double>(data.train.size());
    progress.step();
  });
  result.seconds_per_step = (now() - start) / static_cast<double>(recipe.steps(data.train.size()));
  result.test_accuracy = trainer.accuracy(data.test);
  result.parameters = values_of<T>(trainer.parameters());
  return result;
}

}  // namespace digits
