// What synchronization costs: a step of a layer whose ranks share their statistics by that of one whose ranks do not, all
// ranks at work together. See docs/benchmarks.md.
//
//   mpirun -n 2 bench_synchronized       ranks are processes
//   bench_synchronized --threads=2       ranks are threads
//   --seconds=S                          for each case and latency
//   --shape=32x64x56x56                  this one alone
//
// In each round every variant makes one step in turn, from a barrier on; its time is that of the slowest rank. Ratios and
// differences are taken within a round; the table holds medians.

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <mpi.h>

#include <syncbn/backends/mpi_communicator.hpp>
#include <syncbn/syncbn.hpp>

#include "delayed_communicator.hpp"

namespace {

using syncbn::Index;
using Clock = std::chrono::steady_clock;
using Backend = syncbn::CpuBackend<>;

struct Options {
  double seconds = 1;
  int threads = 0;
  std::vector<Index> shape;
};

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

struct Free {
  void operator()(float* p) const { std::free(p); }
};
std::unique_ptr<float, Free> tensor(Index elements, float offset) {
  const auto bytes = (static_cast<std::size_t>(elements) * sizeof(float) + 4095) / 4096 * 4096;
  std::unique_ptr<float, Free> result(static_cast<float*>(std::aligned_alloc(4096, bytes)));
  for (Index i = 0; i < elements; ++i) result.get()[i] = offset + static_cast<float>(i * 2654435761 % 1000) * 0.001F;
  return result;
}

// The three layers of a case, on the same memory.
template <class Communicator>
class Contest {
 public:
  static constexpr int alone = 0, blocking = 1, pipelined = 2, variants = 3;
  using Delayed = bench::DelayedCommunicator<Communicator>;

  Contest(Communicator communicator, const std::vector<Index>& extents, bool channels_last)
      : communicator_(communicator),
        delayed_(communicator),
        alone_(extents[1]),
        blocking_(extents[1], {}, delayed_),
        pipelined_(extents[1], {}, delayed_) {
    Index elements = 1;
    for (const Index e : extents) elements *= e;
    x_ = tensor(elements, 0);
    dy_ = tensor(elements, -0.5F);
    y_ = tensor(elements, 0);
    std::vector<Index> strides(extents.size());
    Index stride = channels_last ? extents[1] : 1;
    for (std::size_t d = extents.size(); d-- > 0;) {
      if (channels_last && d == 1) continue;
      strides[d] = stride;
      stride *= extents[d];
    }
    if (channels_last) strides[1] = 1;
    const auto view = [&](float* p) { return syncbn::TensorView<float>(p, extents, strides); };
    views_ = {view(x_.get()), view(dy_.get()), view(y_.get())};
    blocking_.exchange().set_most_blocks(1);
  }

  void set_latency(std::chrono::microseconds latency) { delayed_.set_latency(latency); }

  // Seconds of the slowest rank.
  double time(int variant, bool backward) {
    barrier();
    const auto begin = Clock::now();
    if (variant == alone) pass(alone_, saved_[alone], backward);
    if (variant == blocking) pass(blocking_, saved_[blocking], backward);
    if (variant == pipelined) pass(pipelined_, saved_[pipelined], backward);
    const double mine = std::chrono::duration<double>(Clock::now() - begin).count();
    std::vector<double> all(static_cast<std::size_t>(communicator_.size()));
    all[static_cast<std::size_t>(communicator_.rank())] = mine;
    syncbn::all_reduce_sum(communicator_, all);
    return *std::max_element(all.begin(), all.end());
  }

 private:
  void barrier() {
    double nothing = 0;
    syncbn::all_reduce_sum(communicator_, std::span(&nothing, 1));
  }

  template <class Layer, class Saved>
  void pass(Layer& layer, Saved& saved, bool backward) {
    const syncbn::TensorView<const float> x = views_[0];
    const syncbn::TensorView<const float> dy = views_[1];
    if (backward) {
      layer.backward(dy, x, saved, views_[2]);
    } else {
      layer.forward(x, views_[2], saved);
    }
  }

  Communicator communicator_;
  Delayed delayed_;
  syncbn::BatchNorm<syncbn::any_dims, Backend> alone_;
  syncbn::SyncBatchNorm<Backend, Delayed> blocking_, pipelined_;
  syncbn::SavedForward<Backend> saved_[variants];
  std::unique_ptr<float, Free> x_, dy_, y_;
  std::vector<syncbn::TensorView<float>> views_;
};

std::string text_of(const std::vector<Index>& extents, bool channels_last) {
  std::string text;
  for (const Index e : extents) text += (text.empty() ? "" : "x") + std::to_string(e);
  return text + (extents.size() == 2 ? "" : channels_last ? " NHWC" : " NCHW");
}

// Ratios to the layer alone, without added latency: forward blocking and in blocks, backward blocking and in blocks.
using Ratios = std::array<double, 4>;

// One line of the table. Times of all variants in all rounds, for each latency.
template <class Communicator>
Ratios run_case(Communicator communicator, const std::vector<Index>& extents, bool channels_last,
                const Options& options) {
  using Case = Contest<Communicator>;
  Case contest(communicator, extents, channels_last);
  const bool speaks = communicator.rank() == 0;
  Ratios ratios{};
  if (speaks) std::printf("| %s |", text_of(extents, channels_last).c_str());
  for (const int latency : {0, 20, 200, 1000}) {
    contest.set_latency(std::chrono::microseconds(latency));
    std::vector<double> seconds[2][Case::variants];
    double used = 0;
    for (int round = -2; round < 7 || (used < options.seconds && round < 200); ++round) {
      for (int k = 0; k < Case::variants; ++k) {
        const int variant = (k + round + 2) % Case::variants;
        for (const bool backward : {false, true}) {
          const double time = contest.time(variant, backward);
          used += time;  // the same on every rank
          if (round >= 0) seconds[backward ? 1 : 0][variant].push_back(time);
        }
      }
    }
    std::size_t column = 0;
    for (const auto& direction : seconds) {
      const std::vector<double>& base = direction[Case::alone];
      if (speaks && latency == 0) std::printf(" %.0f |", 1e6 * median(base));
      for (const int variant : {Case::blocking, Case::pipelined}) {
        std::vector<double> compared;
        for (std::size_t r = 0; r < base.size(); ++r) {
          const double time = direction[variant][r];
          compared.push_back(latency == 0 ? time / base[r] : 1e6 * (time - base[r]));
        }
        const double result = median(compared);
        if (latency == 0) ratios[column++] = result;
        if (speaks) std::printf(latency == 0 ? " %.2f |" : " %.0f |", result);
      }
    }
  }
  if (speaks) std::printf("\n");
  if (speaks) std::fflush(stdout);
  return ratios;
}

template <class Communicator>
void run(Communicator communicator, const Options& options) {
  std::vector<std::vector<Index>> shapes{{32, 64, 112, 112}, {32, 64, 56, 56},    {32, 256, 56, 56}, {32, 512, 28, 28},
                                         {32, 1024, 14, 14}, {2, 32, 64, 64, 64}, {65536, 64},       {8, 64, 112, 112},
                                         {8, 256, 56, 56},   {8, 512, 28, 28},    {32, 2048, 7, 7},  {8, 3, 224, 224},
                                         {16, 35, 33, 31},   {4, 64, 28, 28}};
  if (!options.shape.empty()) shapes = {options.shape};
  const bool speaks = communicator.rank() == 0;
  if (speaks) {
    std::printf(
        "| tensor of each rank | forward alone, us | blocking / alone | in blocks / alone | backward alone, us |"
        " blocking / alone | in blocks / alone |");
    for (const int latency : {20, 200, 1000}) {
      std::printf(" latency %d us: forward blocking, us more than alone | in blocks | backward blocking | in blocks |",
                  latency);
    }
    std::printf("\n|%s\n",
                [] {
                  std::string line;
                  for (int column = 0; column < 19; ++column) line += " --- |";
                  return line;
                }()
                    .c_str());
  }
  Ratios logarithms{};
  int large = 0;
  for (const auto& extents : shapes) {
    Index bytes = sizeof(float);
    for (const Index e : extents) bytes *= e;
    for (const bool channels_last : {false, true}) {
      if (extents.size() == 2 && channels_last) continue;  // the same memory
      const Ratios ratios = run_case(communicator, extents, channels_last, options);
      if (bytes <= Index{16} << 20) continue;
      ++large;
      for (std::size_t i = 0; i < ratios.size(); ++i) logarithms[i] += std::log(ratios[i]);
    }
  }
  if (!speaks || large == 0) return;
  std::printf(
      "\nGeometric means over 16 MB: forward blocking %.2f, in blocks %.2f; backward blocking %.2f, in blocks %.2f.\n",
      std::exp(logarithms[0] / large), std::exp(logarithms[1] / large), std::exp(logarithms[2] / large),
      std::exp(logarithms[3] / large));
}

std::optional<std::string> value_of(const char* argument, const char* name) {
  const std::size_t length = std::strlen(name);
  if (std::strncmp(argument, name, length) != 0) return {};
  return argument + length;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    if (const auto seconds = value_of(argv[i], "--seconds=")) {
      options.seconds = std::stod(*seconds);
    } else if (const auto threads = value_of(argv[i], "--threads=")) {
      options.threads = std::stoi(*threads);
    } else if (const auto shape = value_of(argv[i], "--shape=")) {
      for (std::size_t at = 0; at < shape->size();) {
        std::size_t length = 0;
        options.shape.push_back(std::stoll(shape->substr(at), &length));
        at += length + 1;
      }
    } else {
      std::fprintf(stderr, "unknown argument %s; see the first lines of bench/synchronized/main.cpp\n", argv[i]);
      return 2;
    }
  }
  if (options.threads > 0) {
    syncbn::run_thread_ranks(options.threads,
                             [&](syncbn::ThreadCommunicator communicator) { run(std::move(communicator), options); });
    return 0;
  }
  MPI_Init(&argc, &argv);
  run(syncbn::MpiCommunicator(), options);
  MPI_Finalize();
  return 0;
}
