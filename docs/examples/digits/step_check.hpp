#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "rounding.hpp"
#include "training.hpp"

/// @file
/// The check of single steps: from the same parameters, all ranks together and one rank alone compute the same.

namespace digits {

/// @brief One step, layer by layer: what all ranks computed together, in the order of the batch.
struct StepTrace {
  struct BlockTrace {
    Matrix<double> convolved;           // (N, K * H' * W')
    Matrix<double> activated;           // (N, K * H' * W')
    Matrix<double> activated_gradient;  // (N, K * H' * W')
    Matrix<double> convolved_gradient;  // (N, K * H' * W')
  };
  std::array<BlockTrace, 3> blocks;
  Matrix<double> scores;           // (N, 10)
  Matrix<double> scores_gradient;  // (N, 10)
};

/// @brief Puts the samples of all ranks together: each adds its own rows to zeros.
/// @param part   this rank's rows. @param first  their place in the batch. @param batch_size  rows on all ranks.
/// @return       all of them, on every rank. @collective{one all-reduce}
template <class World, class Rows>
Matrix<double> assemble(World& world, const Rows& part, Index first, Index batch_size) {
  Matrix<double> whole = Matrix<double>::Zero(batch_size, part.cols());
  whole.middleRows(first, part.rows()) = part;
  syncbn::all_reduce_sum(world, std::span(whole.data(), static_cast<std::size_t>(whole.size())));
  return whole;
}

/// @brief What a trainer has computed in find_gradients().
/// @param world  the ranks that share the batch. @param first, batch_size  as for assemble(). @collective{several}
template <class AnyTrainer, class World>
StepTrace trace_step(AnyTrainer& trainer, World& world, Index first, Index batch_size) {
  const auto whole = [&](const auto& part) { return assemble(world, part, first, batch_size); };
  StepTrace trace;
  for (std::size_t i = 0; i < trace.blocks.size(); ++i) {
    const auto& block = trainer.network().blocks()[i];
    trace.blocks[i] = {.convolved = whole(rows(block.convolved)),
                       .activated = whole(rows(block.activated)),
                       .activated_gradient = whole(rows(block.activated_gradient)),
                       .convolved_gradient = whole(rows(block.convolved_gradient))};
  }
  trace.scores = whole(trainer.network().logits());
  trace.scores_gradient = whole(trainer.dlogits());
  return trace;
}

/// @brief How far apart two computations of one array are: 2-norms.
struct Distance {
  std::string name;
  double size = 0.0;   ///< the distance
  double bound = 0.0;  ///< what rounding may make of it
  double norm = 0.0;   ///< of the array itself

  /// @brief Up to 1 is rounding.
  [[nodiscard]] double ratio() const {
    const double ratio = size / bound;
    return size == 0.0 ? 0.0 : std::isnan(ratio) ? std::numeric_limits<double>::infinity() : ratio;
  }
};

/// @brief Compares a step of one rank alone with the same step of several.
class StepComparison {
 public:
  /// @brief Compares all arrays, up to the gradients of the parameters.
  /// @param mine   a trainer after find_gradients() of the whole batch. @param theirs  one of several, after the same.
  /// @param a, c   the traces of mine and of theirs. @param ranks  of theirs.
  template <class Mine, class Theirs>
  StepComparison(Mine& mine, Theirs& theirs, const StepTrace& a, const StepTrace& c, int ranks) {
    x_[0] = rows(mine.input()).norm();
    for (std::size_t i = 0; i < blocks; ++i) {
      bounds_.emplace_back(mine.network().blocks()[i], ranks);
      compare_forward(i, a.blocks[i], c.blocks[i]);
    }
    const rounding::ScoresBounds scores(mine.network().linear(), a.scores, a.scores_gradient, x_[blocks], ranks);
    const double dz = add("scores", a.scores, c.scores, scores.scores(dx_[blocks]));
    const double ddz = add("gradient of scores", a.scores_gradient, c.scores_gradient, scores.scores_gradient(dz));
    if (!decided_) return;

    std::vector<double> parameters{scores.weight_gradient(dx_[blocks], ddz), scores.bias_gradient(ddz)};
    double input_gradient = scores.input_gradient(ddz);
    for (std::size_t i = blocks; i-- > 0;) {
      input_gradient = compare_backward(i, a.blocks[i], c.blocks[i], input_gradient, parameters);
    }
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const Parameter<double>& parameter = mine.parameters()[i];
      gradient_distances_.push_back(add("gradient of " + parameter.name, vector(parameter.gradient),
                                        vector(theirs.parameters()[i].gradient), parameters[i]));
    }
  }

  /// @brief After a step of both optimizers from a common state, compares the new parameters
  /// value - rate * (momentum * velocity + gradient): the gradients' distance times the rate, and four roundings.
  template <class Mine, class Theirs>
  void add_new_values(Mine& mine, Theirs& theirs, double rate) {
    std::span<const double> velocity = mine.velocity();
    for (std::size_t i = 0; i < gradient_distances_.size(); ++i) {
      const Parameter<double>& parameter = mine.parameters()[i];
      const double moved = vector(velocity.first(parameter.value.size())).norm() + vector(parameter.gradient).norm();
      const double terms = vector(parameter.value).norm() + 2.0 * rate * moved;
      add("new " + parameter.name, vector(parameter.value), vector(theirs.parameters()[i].value),
          rate * gradient_distances_[i] + rounding::apart(4) * terms);
      velocity = velocity.subspan(parameter.value.size());
    }
  }

  /// @brief All that was compared.
  [[nodiscard]] std::span<const Distance> distances() const { return distances_; }

  /// @brief Whether all ReLUs do the same in both; if not, what came before is compared, but no gradient.
  [[nodiscard]] bool decided() const { return decided_; }

 private:
  static constexpr std::size_t blocks = std::tuple_size_v<decltype(StepTrace::blocks)>;

  void compare_forward(std::size_t i, const StepTrace::BlockTrace& a, const StepTrace::BlockTrace& c) {
    const std::string block = "block" + std::to_string(i + 1);
    x_[i + 1] = a.activated.norm();
    dc_[i] = add(block + " convolved", a.convolved, c.convolved, bounds_[i].convolved(x_[i], dx_[i]));
    dx_[i + 1] = add(block + " activated", a.activated, c.activated, bounds_[i].activated(dc_[i]));
    // Where rounding decides what a ReLU does, gradients may differ by more than rounding.
    decided_ = decided_ && ((a.activated.array() > 0.0) == (c.activated.array() > 0.0)).all();
  }

  // From the bound for the gradient of a block's output to that of its input; adds those of parameters in front.
  double compare_backward(std::size_t i, const StepTrace::BlockTrace& a, const StepTrace::BlockTrace& c, double bound,
                          std::vector<double>& parameters) {
    const rounding::BlockBounds& bounds = bounds_[i];
    const std::string block = "gradient of block" + std::to_string(i + 1);
    const double ddy = add(block + " activated", a.activated_gradient, c.activated_gradient, bound);
    const double ddc =
        add(block + " convolved", a.convolved_gradient, c.convolved_gradient, bounds.convolved_gradient(dc_[i], ddy));
    parameters.insert(parameters.begin(), {bounds.weight_gradient(x_[i], dx_[i], ddc),
                                           bounds.norm_weight_gradient(dc_[i], ddy), bounds.norm_bias_gradient(ddy)});
    return bounds.input_gradient(ddc);
  }

  static Eigen::Map<const Eigen::VectorXd> vector(std::span<const double> values) {
    return {values.data(), std::ssize(values)};
  }

  template <class A, class B>
  double add(std::string name, const A& mine, const B& theirs, double bound) {
    distances_.push_back({std::move(name), (mine - theirs).norm(), bound, mine.norm()});
    return distances_.back().size;
  }

  std::vector<rounding::BlockBounds> bounds_;
  std::array<double, blocks + 1> x_{};   // 2-norms of the inputs of the blocks, and of the linear layer
  std::array<double, blocks + 1> dx_{};  // their distances
  std::array<double, blocks> dc_{};      // distances of the convolved images
  std::vector<Distance> distances_;
  std::vector<double> gradient_distances_;
  bool decided_ = true;
};

/// @brief What check_steps() finds.
struct StepCheck {
  int steps = 0;      ///< compared
  int undecided = 0;  ///< of these, without gradients, since rounding decided what some ReLU does
  Distance farthest;  ///< the largest of (c) and (a), in units of its bound
  double smallest_local = std::numeric_limits<double>::infinity();  ///< over the steps: the largest of (b) and (a)

  /// @brief Whether every distance is within its bound. A step with statistics that are local to two or more ranks must
  /// *not* pass: this shows that the bounds are narrow enough to tell the one from the other.
  [[nodiscard]] bool passed(int ranks) const {
    return 2 * undecided < steps && farthest.ratio() <= 1.0 && (ranks == 1 || smallest_local > 1.0);
  }
};

/// @brief Takes single steps from the states that (a) goes through.
template <class World, class Place>
class StepChecker {
 public:
  /// @param data, recipe  as for train(). @param world  all ranks. @param place  of batch normalization, but for (a).
  StepChecker(const Dataset& data, const Recipe& recipe, const World& world, const Place& place)
      : data_(data),
        recipe_(recipe),
        world_(world),
        alone_(recipe, {}, {}),
        local_(recipe, place.alone(), world),
        synchronized_(recipe, place.together(world), world) {}

  /// @brief One step of (a), which rank 0 takes, and from the same state one of (b) and one of (c).
  /// @param batch  the numbers of its samples. @collective{several}
  void step(std::span<const Index> batch) {
    const int rank = world_.rank();
    const int ranks = world_.size();
    const std::vector<double> state = share_state();
    const StepTrace b = take(local_, state, batch, even_shard(rank, ranks));
    const StepTrace c = take(synchronized_, state, batch, uneven_shard(rank, ranks, recipe_.batch_size));
    if (rank != 0) return;

    alone_.find_gradients(data_.train, batch, std::ssize(batch));
    syncbn::SingleProcessCommunicator single;
    const StepTrace a = trace_step(alone_, single, 0, std::ssize(batch));
    const StepComparison local(alone_, local_, a, b, ranks);
    StepComparison synchronized(alone_, synchronized_, a, c, ranks);
    alone_.update();
    synchronized_.update();
    synchronized.add_new_values(alone_, synchronized_, recipe_.learning_rate);
    record(local, synchronized);
  }

  /// @brief What was found, on rank 0.
  [[nodiscard]] const StepCheck& result() const { return result_; }

 private:
  using Single = syncbn::SingleProcessCommunicator;

  // Parameters and velocities of (a), all that a step depends on: to those of rank 0 the other ranks add zeros.
  std::vector<double> share_state() {
    std::vector<double> state = values_of<double>(alone_.parameters());
    state.insert(state.end(), alone_.velocity().begin(), alone_.velocity().end());
    if (world_.rank() != 0) std::ranges::fill(state, 0.0);
    syncbn::all_reduce_sum(world_, std::span<double>(state));
    return state;
  }

  template <class AnyTrainer>
  StepTrace take(AnyTrainer& trainer, std::span<const double> state, std::span<const Index> batch,
                 const Sharding& sharding) {
    assign_values<double>(trainer.parameters(), state.first(state.size() / 2));
    std::ranges::copy(state.subspan(state.size() / 2), trainer.velocity().begin());
    const std::vector<Index> shard = sharding(batch);
    trainer.find_gradients(data_.train, shard, std::ssize(batch));
    const Index first = shard.empty() ? 0 : std::ranges::find(batch, shard.front()) - batch.begin();
    return trace_step(trainer, world_, first, std::ssize(batch));
  }

  void record(const StepComparison& local, const StepComparison& synchronized) {
    const auto nearer = [](const Distance& x, const Distance& y) { return x.ratio() < y.ratio(); };
    const Distance& farthest = *std::ranges::max_element(synchronized.distances(), nearer);
    if (result_.steps == 0 || nearer(result_.farthest, farthest)) result_.farthest = farthest;
    result_.smallest_local =
        std::min(result_.smallest_local, std::ranges::max_element(local.distances(), nearer)->ratio());
    ++result_.steps;
    if (!synchronized.decided()) ++result_.undecided;
  }

  const Dataset& data_;
  const Recipe& recipe_;
  World world_;
  Trainer<double, Single, Single> alone_;
  Trainer<double, decltype(std::declval<const Place&>().alone()), World> local_;
  Trainer<double, decltype(std::declval<const Place&>().together(std::declval<const World&>())), World> synchronized_;
  StepCheck result_;
};

/// @brief Checks every step of a training.
/// @param data, recipe  as for train(). @param world  all ranks. @param place  of batch normalization, but for (a).
/// @param progress  told of every step. @return what was found, on rank 0.
template <class World, class Place>
StepCheck check_steps(const Dataset& data, const Recipe& recipe, const World& world, const Place& place,
                      Progress& progress) {
  StepChecker<World, Place> checker(data, recipe, world, place);
  for_each_batch(data.train.size(), recipe, [&](int, std::span<const Index> batch) {
    checker.step(batch);
    progress.step();
  });
  return checker.result();
}

}  // namespace digits
