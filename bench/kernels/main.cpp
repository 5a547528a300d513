// Times one pass of batch normalization by several contenders, interleaved, on the same memory. See docs/benchmarks.md.
//
// One Google Benchmark is one case. One of its iterations is one round: every contender in turn, each measured after a call
// of its own that is not; ratios are taken within a round, and the counters are their medians and quartiles.

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <malloc.h>
#include <memory>
#include <numeric>
#include <string>

#include <benchmark/benchmark.h>

#include "case.hpp"
#include "shapes.hpp"

namespace bench {

namespace {

using Clock = std::chrono::steady_clock;

Index product(const std::vector<Index>& extents) {
  return std::accumulate(extents.begin(), extents.end(), Index{1}, std::multiplies<>());
}

// Of a tensor that has no gaps.
std::vector<Index> dense_strides(const std::vector<Index>& extents, Layout layout) {
  std::vector<Index> result(extents.size());
  Index stride = 1;
  if (layout == Layout::channels_last) {
    result[1] = 1;
    stride = extents[1];
  }
  for (std::size_t d = extents.size(); d-- > 0;) {
    if (layout == Layout::channels_last && d == 1) continue;
    result[d] = stride;
    stride *= extents[d];
  }
  return result;
}

// Memory of all cases: as large as the largest, for each tensor.
class Arena {
 public:
  Buffers buffers(const Case& c) {
    Buffers b;
    const Index inputs = product(c.input_extents());
    b.x = tensor(0, static_cast<std::size_t>(inputs) * bytes_of(c.format));
    b.dy = tensor(1, static_cast<std::size_t>(inputs) * bytes_of(c.format));
    b.y = c.in_place ? (c.pass == Pass::backward ? b.dy : b.x) : tensor(2, c.bytes());
    fill(c.format, inputs, b.x, 1.0);
    fill(c.format, inputs, b.dy, 0.0);
    for (Index k = 0; k < c.channels(); ++k) {
      b.weight.push_back(1.0F + 0.01F * static_cast<float>(k % 7));
      b.bias.push_back(0.1F * static_cast<float>(k % 5));
    }
    return b;
  }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };

  std::byte* tensor(std::size_t which, std::size_t bytes) {
    constexpr std::size_t page = 4096;
    const std::size_t rounded = (bytes + page) / page * page;
    if (size_[which] < rounded) {
      memory_[which].reset(static_cast<std::byte*>(std::aligned_alloc(page, rounded)));
      size_[which] = rounded;
    }
    std::memset(memory_[which].get(), 0, rounded);
    return memory_[which].get();
  }

  // Values between `offset` - 1 and `offset` + 1.
  static void fill(Format format, Index elements, std::byte* to, double offset) {
    std::uint64_t state = 88172645463325252U;
    for (Index i = 0; i < elements; ++i) {
      state ^= state << 13U;
      state ^= state >> 7U;
      state ^= state << 17U;
      const double value = offset + static_cast<double>(state >> 11U) * 0x1p-52 - 1;
      const auto at = static_cast<std::size_t>(i) * bytes_of(format);
      const float single = static_cast<float>(value);
      std::uint32_t bits;
      std::memcpy(&bits, &single, sizeof bits);
      const auto upper = static_cast<std::uint16_t>(bits >> 16U);
      const _Float16 half = static_cast<_Float16>(single);
      switch (format) {
        case Format::f32:
          std::memcpy(to + at, &single, sizeof single);
          break;
        case Format::f64:
          std::memcpy(to + at, &value, sizeof value);
          break;
        case Format::bf16:
          std::memcpy(to + at, &upper, sizeof upper);
          break;
        case Format::f16:
          std::memcpy(to + at, &half, sizeof half);
          break;
      }
    }
  }

  std::array<std::unique_ptr<std::byte, Free>, 3> memory_;
  std::array<std::size_t, 3> size_{};
};

double median(std::vector<double> values, double at = 0.5) {
  const auto nth = static_cast<std::ptrdiff_t>(at * static_cast<double>(values.size() - 1) + 0.5);
  std::nth_element(values.begin(), values.begin() + nth, values.end());
  return values[static_cast<std::size_t>(nth)];
}

double seconds_of(const Run& run, int calls) {
  const auto begin = Clock::now();
  for (int i = 0; i < calls; ++i) run();
  return std::chrono::duration<double>(Clock::now() - begin).count() / calls;
}

struct Options {
  double seconds_per_case = 1.5;
  int fewest_rounds = 7;
};

void run_case(benchmark::State& state, const Case& c, const std::vector<Contender>& contenders, Arena& arena,
              const Options& options) {
  const Buffers buffers = arena.buffers(c);
  struct Entry {
    std::string name;
    Run run;
    int calls = 1;
    std::vector<double> seconds;
  };
  std::vector<Entry> entries;
  double round = 0;
  for (const Contender& contender : contenders) {
    Run run = contender.make(c, buffers);
    if (!run) continue;
    run();
    const double first = seconds_of(run, 1);
    // Long enough for the clock: 50 us.
    const int calls = static_cast<int>(std::clamp(50e-6 / std::max(seconds_of(run, 3), 1e-9), 1.0, 2000.0));
    round += (calls + 1) * std::min(first, seconds_of(run, 2));
    entries.push_back({contender.name, std::move(run), calls, {}});
  }
  const int rounds = std::clamp(static_cast<int>(options.seconds_per_case / round), options.fewest_rounds, 301);
  for ([[maybe_unused]] auto _ : state) {
    double total = 0;
    for (int r = 0; r < rounds; ++r) {
      for (std::size_t k = 0; k < entries.size(); ++k) {
        // Each contender follows each other one equally often.
        Entry& entry = entries[(k + static_cast<std::size_t>(r)) % entries.size()];
        entry.run();
        entry.seconds.push_back(seconds_of(entry.run, entry.calls));
        total += entry.seconds.back();
      }
    }
    state.SetIterationTime(total);
  }
  const std::vector<double> ours = entries.front().seconds;
  for (const Entry& entry : entries) {
    state.counters[entry.name + ":us"] = 1e6 * median(entry.seconds);
    if (&entry == &entries.front()) continue;
    std::vector<double> ratios;
    for (std::size_t r = 0; r < entry.seconds.size(); ++r) ratios.push_back(entry.seconds[r] / ours[r]);
    state.counters[entry.name + ":ratio"] = median(ratios);
    state.counters[entry.name + ":low"] = median(ratios, 0.25);
    state.counters[entry.name + ":high"] = median(ratios, 0.75);
  }
  state.counters["rounds"] = rounds;
  state.counters["bytes"] = static_cast<double>(c.bytes());
}

// Ours at the widest instruction set that the processor has is the measure of all others.
std::vector<Contender> all_contenders() {
  std::vector<Contender> all;
  const auto add = [&](std::vector<Contender> more) { all.insert(all.end(), more.begin(), more.end()); };
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) add({syncbn_avx512()});
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) add({syncbn_avx2()});
  add({syncbn_sse2()});
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) add({syncbn_avx512(true)});
#if BENCH_ONEDNN
  add(contenders_onednn());
#endif
#if BENCH_TORCH
  add(contenders_torch());
#endif
  add(limits());
  return all;
}

}  // namespace

const char* name(Pass pass) {
  return pass == Pass::forward ? "forward" : pass == Pass::backward ? "backward" : "inference";
}
const char* name(Layout layout) { return layout == Layout::channels_first ? "NCHW" : "NHWC"; }
const char* name(Format format) {
  constexpr std::array names{"f32", "f64", "bf16", "f16"};
  return names[static_cast<std::size_t>(format)];
}
std::size_t bytes_of(Format format) {
  constexpr std::array<std::size_t, 4> bytes{4, 8, 2, 2};
  return bytes[static_cast<std::size_t>(format)];
}

Index Case::elements() const { return product(extents); }
std::vector<Index> Case::strides() const { return dense_strides(extents, layout); }
std::vector<Index> Case::input_extents() const {
  std::vector<Index> result = extents;
  if (sliced) result.back() += 8;
  return result;
}
std::vector<Index> Case::input_strides() const { return dense_strides(input_extents(), layout); }
std::string Case::text() const {
  std::string result = std::string(name(pass)) + "/" + name(format) + "/" + name(layout) + "/";
  for (std::size_t d = 0; d < extents.size(); ++d) result += (d == 0 ? "" : "x") + std::to_string(extents[d]);
  result += "/t" + std::to_string(threads);
  if (!affine) result += "/plain";
  if (in_place) result += "/in_place";
  if (sliced) result += "/sliced";
  return result;
}

}  // namespace bench

int main(int argc, char** argv) {
  using namespace bench;
  // Peers that allocate outputs get memory that they have had before, not page faults.
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);

  benchmark::Initialize(&argc, argv);
  Options options;
  bool full = false;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--full") {
      full = true;
    } else if (argument.starts_with("--seconds=")) {
      options.seconds_per_case = std::stod(argument.substr(10));
    } else {
      std::fprintf(stderr, "usage: %s [--full] [--seconds=S] [--benchmark_filter=REGEX] [--benchmark_out=FILE]\n",
                   argv[0]);
      return 2;
    }
  }

  const std::vector<Contender> contenders = all_contenders();
  Arena arena;
  for (const Case& c : cases(full)) {
    benchmark::RegisterBenchmark(c.text().c_str(),
                                 [&, c](benchmark::State& s) { run_case(s, c, contenders, arena, options); })
        ->Iterations(1)
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
  }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
