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
#include <random>
#include <string>

#include <benchmark/benchmark.h>

#include "case.hpp"
#include "results.hpp"
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
    fill(c.format, inputs, b.x, 88172645463325252U, 1.0);
    fill(c.format, inputs, b.dy, 1234567890123456789U, 0.0);  // were it x's, dx would be rounding alone
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
  static void fill(Format format, Index elements, std::byte* to, std::uint64_t state, double offset) {
    for (Index i = 0; i < elements; ++i) {
      state ^= state << 13U;
      state ^= state >> 7U;
      state ^= state << 17U;
      store(format, offset + static_cast<double>(state >> 11U) * 0x1p-52 - 1, to, i);
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

double seconds_of(const std::function<void()>& run, int calls) {
  const auto begin = Clock::now();
  for (int i = 0; i < calls; ++i) run();
  return std::chrono::duration<double>(Clock::now() - begin).count() / calls;
}

struct Options {
  double seconds_per_case = 1.5;
  int fewest_rounds = 7;
};

// A contender that does the case.
struct Entry {
  std::string name;
  std::function<void()> run;
  int calls = 1;         // in a round
  int calls_before = 1;  // that are not timed
  double round_seconds = 0;
  std::vector<double> seconds;  // of a call, in each round
};

// As many calls as the clock needs: 50 us; and as many before them that the caches are those of this contender: 100 us.
Entry warm_up(const std::string& name, const std::function<void()>& run) {
  const double first = seconds_of(run, 1);
  const double seconds = std::max(seconds_of(run, 3), 1e-9);
  const int calls = static_cast<int>(std::clamp(50e-6 / seconds, 1.0, 2000.0));
  const int calls_before = static_cast<int>(std::clamp(100e-6 / seconds, 1.0, 2000.0));
  return {name, run, calls, calls_before, (calls + calls_before) * std::min(first, seconds_of(run, 2)), {}};
}

// Returns the time of all calls.
double time_rounds(std::vector<Entry>& entries, int rounds) {
  double total = 0;
  std::mt19937 random(1);
  std::vector<std::size_t> order(entries.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  for (int r = 0; r < rounds; ++r) {
    // What a contender finds in the caches depends on who came before it: in a fixed order always the same one.
    std::shuffle(order.begin(), order.end(), random);
    for (const std::size_t k : order) {
      Entry& entry = entries[k];
      seconds_of(entry.run, entry.calls_before);
      entry.seconds.push_back(seconds_of(entry.run, entry.calls));
      total += entry.seconds.back();
    }
  }
  return total;
}

void report(const std::vector<Entry>& entries, benchmark::UserCounters& counters) {
  const std::vector<double>& ours = entries.front().seconds;
  for (const Entry& entry : entries) {
    counters[entry.name + ":us"] = 1e6 * median(entry.seconds);
    if (&entry == &entries.front()) continue;
    std::vector<double> ratios;
    for (std::size_t r = 0; r < entry.seconds.size(); ++r) ratios.push_back(entry.seconds[r] / ours[r]);
    counters[entry.name + ":ratio"] = median(ratios);
    counters[entry.name + ":low"] = median(ratios, 0.25);
    counters[entry.name + ":high"] = median(ratios, 0.75);
  }
}

// Returns whether all results agree.
bool run_case(benchmark::State& state, const Case& c, const std::vector<Contender>& contenders, Arena& arena,
              const Options& options) {
  const Buffers buffers = arena.buffers(c);
  std::vector<Entry> entries;
  std::vector<std::byte> expected;
  bool agree = true;
  double round = 0;
  for (const Contender& contender : contenders) {
    const Run run = contender.make(c, buffers);
    if (!run.call) continue;
    run.call();
    // In place, each call has the results of the one before as its input.
    if (run.result && !c.in_place) {
      const std::byte* const found = run.result();
      if (expected.empty()) expected.assign(found, found + c.bytes());
      const double apart = difference(c, expected, found);
      state.counters[contender.name + ":difference"] = apart;
      // Of a few values the deviation may be tiny beside the mean, and the peers' errors grow with the ratio.
      const bool has_many_values = c.elements() / c.channels() >= 32;
      if (has_many_values && !(apart <= 1)) {
        agree = false;
        std::fprintf(stderr, "%s: %s is %g tolerances from ours\n", c.text().c_str(), contender.name.c_str(), apart);
      }
    }
    entries.push_back(warm_up(contender.name, run.call));
    round += entries.back().round_seconds;
  }
  const int rounds = std::clamp(static_cast<int>(options.seconds_per_case / round), options.fewest_rounds, 301);
  for ([[maybe_unused]] auto _ : state) state.SetIterationTime(time_rounds(entries, rounds));
  report(entries, state.counters);
  state.counters["rounds"] = rounds;
  state.counters["bytes"] = static_cast<double>(c.bytes());
  return agree;
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
  benchmark::AddCustomContext("peers", BENCH_PEERS);
  benchmark::AddCustomContext("compiler", __VERSION__);
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
  bool all_agree = true;
  for (const Case& c : cases(full)) {
    benchmark::RegisterBenchmark(
        c.text().c_str(),
        [&, c](benchmark::State& s) { all_agree = run_case(s, c, contenders, arena, options) && all_agree; })
        ->Iterations(1)
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
  }
  benchmark::RunSpecifiedBenchmarks();
  return all_agree ? 0 : 1;
}
