#pragma once

#include <array>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <syncbn/syncbn.hpp>

#include "step_check.hpp"
#include "training.hpp"

/// @file
/// The three trainings that are compared: (a) one rank, (b) several ranks with local statistics, (c) synchronized.

namespace digits {

/// @brief (a), and a control that shows how far rounding alone leads away from it.
template <class T>
struct Baseline {
  Training<T> alone;           ///< (a)
  double control_drift = 0.0;  ///< largest difference of parameters when the samples of each batch are reversed
};

/// @brief (b) and (c) beside (a).
template <class T>
struct Comparison {
  int ranks = 1;
  Training<T> local;              ///< (b)
  Training<T> synchronized;       ///< (c)
  double local_difference = 0.0;  ///< largest difference of parameters from (a)
  double drift = 0.0;             ///< the same of (c)
  StepCheck steps;                ///< of f64 only
};

/// @brief How many times the drift of the control is the drift of (c) allowed (f64).
///
/// Both start from rounding errors of the same kind, made in every step and carried on by the same sequence of
/// derivatives: their ratio is that of two random numbers of one size, whatever the amplification. Tried with 12 seeds,
/// 1 to 30 epochs and 2 to 8 ranks, it was 0.6 to 2; at four times the learning rate, where rounding grows a
/// thousandfold, 0.4 to 8. Ten times the usual is still twelve powers of ten below what local statistics do.
inline constexpr double allowed_drifts = 20.0;

/// @brief Text as printf() makes it.
template <class... Arguments>
std::string text(const char* format, Arguments... arguments) {
  std::array<char, 80> buffer{};
  std::snprintf(buffer.data(), buffer.size(), format, arguments...);
  return buffer.data();
}

/// @brief 1 rank, 2 ranks.
inline std::string count_of_ranks(int ranks) { return std::to_string(ranks) + (ranks == 1 ? " rank" : " ranks"); }

/// @brief train(), reported.
template <class T, class... Arguments>
Training<T> train_reported(const std::string& title, Progress& progress, const Dataset& data, const Recipe& recipe,
                           const Arguments&... arguments) {
  progress.begin(title, recipe.steps(data.train.size()));
  Training<T> training = train<T>(data, recipe, arguments..., progress);
  progress.end(text("loss %.4f, test accuracy %5.1f %%, %.2f ms a step", training.epochs.back().loss,
                    100.0 * training.test_accuracy, 1e3 * training.seconds_per_step));
  return training;
}

/// @brief Trains (a) and its control, on this rank alone.
template <class T>
Baseline<T> train_baseline(const Dataset& data, const Recipe& recipe, Progress& progress) {
  const syncbn::SingleProcessCommunicator alone;
  Baseline<T> baseline;
  baseline.alone = train_reported<T>("(a) one rank", progress, data, recipe, whole_batch(), alone, alone);
  const Training<T> control =
      train_reported<T>("    control, batches reversed", progress, data, recipe, reversed_batch(), alone, alone);
  baseline.control_drift = largest_difference<T>(baseline.alone.parameters, control.parameters);
  return baseline;
}

/// @brief Trains (b) and (c) with all ranks of @p world, and compares them with (a).
/// @param world     this rank's handle. @param data, recipe  the same on all ranks.
/// @param baseline  used on rank 0 only. @param progress  told of every step. @param place  of batch normalization.
/// @return          complete on rank 0. @collective{all of it}
template <class T, class World, class Place = OnHost>
Comparison<T> train_ranks(World world, const Dataset& data, const Recipe& recipe, const Baseline<T>& baseline,
                          Progress progress, const Place& place = {}) {
  const int rank = world.rank();
  const int ranks = world.size();
  const std::string title = count_of_ranks(ranks);
  Comparison<T> comparison;
  comparison.ranks = ranks;

  comparison.local = train_reported<T>("(b) " + title + ", local", progress, data, recipe, even_shard(rank, ranks),
                                       place.alone(), world);
  const TimedCommunicator<World> timed(world);
  comparison.synchronized =
      train_reported<T>("(c) " + title + ", synchronized", progress, data, recipe,
                        uneven_shard(rank, ranks, recipe.batch_size), place.together(timed), world);
  const double steps = static_cast<double>(recipe.steps(data.train.size()));
  std::array seconds{timed.seconds() / steps, comparison.synchronized.seconds_per_step};
  syncbn::all_reduce_sum(world, std::span<double>(seconds));
  comparison.synchronized.exchange_share = seconds[0] / seconds[1];

  if constexpr (std::is_same_v<T, double>) {
    progress.begin("    " + title + ", single steps", recipe.steps(data.train.size()));
    comparison.steps = check_steps(data, recipe, world, place, progress);
    progress.end("compared with (a)");
  }
  if (rank == 0) {
    comparison.local_difference = largest_difference<T>(baseline.alone.parameters, comparison.local.parameters);
    comparison.drift = largest_difference<T>(baseline.alone.parameters, comparison.synchronized.parameters);
  }
  return comparison;
}

}  // namespace digits
