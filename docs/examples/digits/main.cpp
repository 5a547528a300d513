// Trains a small convolutional network on handwritten digits, three times: (a) on one rank, (b) on several ranks with
// batch normalization over each rank's own samples, (c) on several ranks with synchronized batch normalization.
// Here threads are the ranks; main_mpi.cpp is the same program with processes.

#include <cstdio>
#include <exception>
#include <span>
#include <unistd.h>
#include <utility>
#include <vector>

#include <syncbn/syncbn.hpp>

#include "experiment.hpp"
#include "options.hpp"
#include "report.hpp"

namespace {

template <class T>
bool demo(const digits::Options& options) {
  const digits::Dataset data = digits::read_dataset(options.data);
  const digits::Recipe recipe{.epochs = options.epochs};
  const bool on_terminal = isatty(STDOUT_FILENO) == 1;
  const digits::Progress silent(digits::Progress::Style::silent);
  digits::Progress progress(on_terminal ? digits::Progress::Style::bar : digits::Progress::Style::lines);
  std::printf("%td digits to learn from, %td to test with, %s, ranks are threads\n", data.train.size(),
              data.test.size(), digits::type_name<T>);

  const digits::Baseline<T> baseline = digits::train_baseline<T>(data, recipe, progress);
  std::vector<digits::Comparison<T>> comparisons;
  for (const int ranks : options.ranks) {
    auto& comparison = comparisons.emplace_back();
    syncbn::run_thread_ranks(ranks, [&](syncbn::ThreadCommunicator world) {
      auto result = digits::train_ranks<T>(world, data, recipe, baseline, world.rank() == 0 ? progress : silent);
      if (world.rank() == 0) comparison = std::move(result);
    });
  }
  return digits::report<T>(options, "digits_loss.svg", baseline, comparisons);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const digits::Options options = digits::parse_options({argv, static_cast<std::size_t>(argc)}, true);
    if (options.help) {
      digits::print_usage(stdout, true);
      return 0;
    }
    return (options.check ? demo<double>(options) : demo<float>(options)) ? 0 : 1;
  } catch (const digits::UsageError& error) {
    std::fprintf(stderr, "digits_demo: %s\n", error.what());
    digits::print_usage(stderr, true);
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "digits_demo: %s\n", error.what());
    return 1;
  }
}
