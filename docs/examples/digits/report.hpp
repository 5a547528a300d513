#pragma once

#include <array>
#include <cinttypes>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "curves_svg.hpp"
#include "experiment.hpp"
#include "options.hpp"
#include "parameter_file.hpp"

/// @file
/// What is printed and written in the end.

namespace digits {

/// @brief f32 or f64.
template <class T>
inline constexpr const char* type_name = std::is_same_v<T, double> ? "f64" : "f32";

/// @brief How far the parameters of (c) may lie from those of (a).
template <class T>
double allowance(const Baseline<T>& baseline) {
  return allowed_drifts * baseline.control_drift;
}

/// @brief One line of the table: a label and three cells.
inline void print_row(const std::string& label, const std::array<std::string, 3>& cells) {
  std::printf("%-30s%19s%19s%19s\n", label.c_str(), cells[0].c_str(), cells[1].c_str(), cells[2].c_str());
}

/// @brief The three trainings side by side.
template <class T>
void print_table(const Baseline<T>& baseline, const Comparison<T>& comparison) {
  // A row with the same cell made of each training.
  const auto row = [&](const std::string& label, auto cell) {
    print_row(label, {cell(baseline.alone), cell(comparison.local), cell(comparison.synchronized)});
  };
  std::printf("\n");
  print_row(count_of_ranks(comparison.ranks), {"(a) one rank", "(b) local", "(c) synchronized"});
  print_row("epoch", {"loss  accuracy", "loss  accuracy", "loss  accuracy"});
  for (std::size_t epoch = 0; epoch < baseline.alone.epochs.size(); ++epoch) {
    row(text("%5zu", epoch + 1), [&](const Training<T>& training) {
      const Score& score = training.epochs[epoch];
      return text("%.4f   %5.1f %%", score.loss, 100.0 * score.correct);
    });
  }
  row("test accuracy", [](const Training<T>& training) { return text("%.1f %%", 100.0 * training.test_accuracy); });
  print_row("parameters differ from (a) by",
            {text("%.1e *", baseline.control_drift), text("%.1e", comparison.local_difference),
             text("%.1e", comparison.drift)});
  row("fingerprint of parameters",
      [](const Training<T>& training) { return text("%016" PRIx64, fingerprint<T>(training.parameters)); });
  row("time per step", [](const Training<T>& training) { return text("%.2f ms", 1e3 * training.seconds_per_step); });
  row("  in exchange of batch norm **", [](const Training<T>& training) {
    return training.exchange_share == 0.0 ? "-" : text("%.1f %%", 100.0 * training.exchange_share);
  });
  std::printf(
      "   * (a) with the samples of every batch in reverse order: what rounding alone does\n"
      "  ** mean over the ranks; it includes waiting for ranks with more samples\n");
}

/// @brief Prints the verdict of `--check`. @return whether (c) equals (a) but for rounding.
inline bool print_check(const Baseline<double>& baseline, const Comparison<double>& comparison) {
  const StepCheck& steps = comparison.steps;
  const bool steps_passed = steps.passed(comparison.ranks);
  const bool drift_passed = std::isfinite(comparison.drift) && comparison.drift <= allowance(baseline);
  const auto verdict = [](bool passed) { return passed ? "passed" : "FAILED"; };
  std::printf("check %s: %d single steps from the parameters of (a), %d undecided\n", verdict(steps_passed),
              steps.steps, steps.undecided);
  std::printf("              (c) at most %.1e of what rounding may do", steps.farthest.ratio());
  if (steps.farthest.size > 0.0) {
    std::printf(" (%s: %.1e of its norm)", steps.farthest.name.c_str(), steps.farthest.bound / steps.farthest.norm);
  }
  if (comparison.ranks > 1) std::printf("\n              (b) at least %.1e of that", steps.smallest_local);
  std::printf("\n");
  std::printf("check %s: final parameters of (c) differ by %.1e, allowed %.1e = %.0f times rounding alone\n",
              verdict(drift_passed), comparison.drift, allowance(baseline), allowed_drifts);
  return steps_passed && drift_passed;
}

/// @brief Compares the parameters of (c) with a file, as `--compare` says.
///
/// Two numbers have one sum, so up to two ranks every communicator must give the same bits. More numbers have several,
/// by the order of summation; but each result lies within its allowance of (a), so they lie within both of each other.
inline bool print_comparison(const ParameterFile& mine, const std::string& path) {
  const ParameterFile other = read_parameters(path);
  if (mine.type != other.type || mine.ranks != other.ranks || mine.epochs != other.epochs ||
      mine.values.size() != other.values.size()) {
    throw std::runtime_error(path + " is not of the same training: type, ranks or epochs differ");
  }
  const bool same = same_bits(mine.values, other.values);
  const double difference = largest_difference<double>(mine.values, other.values);
  const double allowed = mine.ranks <= 2 ? 0.0 : mine.allowance + other.allowance;
  const bool passed = same || (mine.ranks > 2 && difference <= allowed);
  std::printf("check %s: parameters of (c) and those in %s: %s, largest difference %.1e, allowed %.1e\n",
              passed ? "passed" : "FAILED", path.c_str(), same ? "the same bits" : "not the same bits", difference,
              allowed);
  return passed;
}

/// @brief Writes the curves of the loss. @return the path of the picture.
template <class T>
std::string write_picture(const std::string& folder, const std::string& name, const Baseline<T>& baseline,
                          std::span<const Comparison<T>> comparisons) {
  const auto losses = [](const Training<T>& training) {
    std::vector<double> values;
    for (const Score& epoch : training.epochs) values.push_back(epoch.loss);
    return values;
  };
  std::vector<Diagram> diagrams;
  for (const Comparison<T>& comparison : comparisons) {
    diagrams.push_back({.title = count_of_ranks(comparison.ranks),
                        .curves = {{"(a) one rank", R"(stroke="#bbb" stroke-width="6")", losses(baseline.alone)},
                                   {"(b) local", R"(stroke="#d95f02" stroke-width="2")", losses(comparison.local)},
                                   {"(c) synchronized", R"(stroke="#1b5e9e" stroke-width="2" stroke-dasharray="6 4")",
                                    losses(comparison.synchronized)}}});
  }
  std::filesystem::create_directories(folder);
  const std::string path = (std::filesystem::path(folder) / name).string();
  CurvesPicture(diagrams).write(path);
  return path;
}

/// @brief Everything that comes after the trainings.
/// @param options   of the command line. @param picture  name of the file with the curves.
/// @param baseline  (a). @param comparisons  (b) and (c), for one or more numbers of ranks.
/// @return          whether all checks passed.
template <class T>
bool report(const Options& options, const std::string& picture, const Baseline<T>& baseline,
            std::span<const Comparison<T>> comparisons) {
  bool passed = true;
  for (const Comparison<T>& comparison : comparisons) {
    print_table(baseline, comparison);
    if constexpr (std::is_same_v<T, double>) passed = print_check(baseline, comparison) && passed;
  }
  const std::vector<T>& final_values = comparisons.back().synchronized.parameters;
  const ParameterFile parameters{.type = type_name<T>,
                                 .ranks = comparisons.back().ranks,
                                 .epochs = options.epochs,
                                 .allowance = allowance(baseline),
                                 .values = std::vector<double>(final_values.begin(), final_values.end())};
  std::printf("\n");
  if (!options.compare.empty()) passed = print_comparison(parameters, options.compare) && passed;
  if (!options.parameters.empty()) {
    write_parameters(options.parameters, parameters);
    std::printf("parameters: %s\n", options.parameters.c_str());
  }
  std::printf("curves of the loss: %s\n", write_picture(options.output, picture, baseline, comparisons).c_str());
  return passed;
}

}  // namespace digits
