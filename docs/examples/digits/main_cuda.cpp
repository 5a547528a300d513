// The program of main.cpp with batch normalization on CUDA devices, one for each rank as long as there are any. (a) is on the
// host all the same: so --check says whether the devices compute what the host does.

#include <cstdio>
#include <cuda_runtime_api.h>
#include <exception>
#include <span>
#include <stdexcept>
#include <string>
#include <unistd.h>
#include <utility>
#include <vector>

#include <syncbn/syncbn.hpp>

#include "device_norm.hpp"
#include "experiment.hpp"
#include "options.hpp"
#include "report.hpp"

namespace {

template <class T, class Place>
bool demo(const digits::Options& options, int devices, const Place& place) {
  const digits::Dataset data = digits::read_dataset(options.data);
  const digits::Recipe recipe{.epochs = options.epochs};
  const bool on_terminal = isatty(STDOUT_FILENO) == 1;
  const digits::Progress silent(digits::Progress::Style::silent);
  digits::Progress progress(on_terminal ? digits::Progress::Style::bar : digits::Progress::Style::lines);
  std::printf("%td digits to learn from, %td to test with, %s, ranks are threads with %d CUDA device(s)%s\n",
              data.train.size(), data.test.size(), digits::type_name<T>, devices, options.nccl ? " and NCCL" : "");

  const digits::Baseline<T> baseline = digits::train_baseline<T>(data, recipe, progress);
  std::vector<digits::Comparison<T>> comparisons;
  for (const int ranks : options.ranks) {
    if (options.nccl && ranks > devices) {
      std::printf("not with %d ranks: NCCL needs a device for each\n", ranks);
      continue;
    }
    auto& comparison = comparisons.emplace_back();
    syncbn::run_thread_ranks(ranks, [&](syncbn::ThreadCommunicator world) {
      syncbn::cuda::check(cudaSetDevice(world.rank() % devices), "cudaSetDevice");
      auto result = digits::train_ranks<T>(world, data, recipe, baseline, world.rank() == 0 ? progress : silent, place);
      if (world.rank() == 0) comparison = std::move(result);
    });
  }
  if (comparisons.empty()) throw std::runtime_error("there are fewer devices than ranks");
  return digits::report<T>(options, "digits_loss_cuda.svg", baseline, comparisons);
}

template <class T>
bool demo(const digits::Options& options) {
  int devices = 0;
  syncbn::cuda::check(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
  return options.nccl ? demo<T>(options, devices, digits::OnCudaWithNccl())
                      : demo<T>(options, devices, digits::OnCuda());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const digits::Options options = digits::parse_options({argv, static_cast<std::size_t>(argc)}, true, true);
    if (options.help) {
      digits::print_usage(stdout, true, true);
      return 0;
    }
    return (options.check ? demo<double>(options) : demo<float>(options)) ? 0 : 1;
  } catch (const digits::UsageError& error) {
    std::fprintf(stderr, "digits_demo_cuda: %s\n", error.what());
    digits::print_usage(stderr, true, true);
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "digits_demo_cuda: %s\n", error.what());
    return 1;
  }
}
