#include "harness.hpp"

#include <algorithm>
#include <cstdio>
#include <exception>
#include <functional>
#include <numeric>
#include <random>
#include <string>

#include <benchmark/benchmark.h>

#include "results.hpp"

namespace bench {

namespace {

// Values between `offset` - 1 and `offset` + 1.
void fill(Machine& machine, Format format, Index elements, std::byte* to, std::uint64_t state, double offset) {
  constexpr Index at_once = Index{1} << 20;
  const std::size_t size = bytes_of(format);
  std::vector<std::byte> values(static_cast<std::size_t>(std::min(elements, at_once)) * size);
  for (Index first = 0; first < elements; first += at_once) {
    const Index count = std::min(elements - first, at_once);
    for (Index i = 0; i < count; ++i) {
      state ^= state << 13U;
      state ^= state >> 7U;
      state ^= state << 17U;
      store(format, offset + static_cast<double>(state >> 11U) * 0x1p-52 - 1, values.data(), i);
    }
    machine.write(values.data(), static_cast<std::size_t>(count) * size, to + static_cast<std::size_t>(first) * size);
  }
}

Buffers buffers_of(const Case& c, Machine& machine) {
  Buffers b;
  const Index inputs = c.input_elements();
  const std::size_t input_bytes = static_cast<std::size_t>(inputs) * bytes_of(c.format);
  const auto room = [&](std::size_t which, std::size_t bytes) {
    const std::size_t begin = c.unaligned ? 16 : 0;
    return machine.room(which, begin + bytes) + begin;
  };
  b.x = room(0, input_bytes);
  b.dy = room(1, input_bytes);
  b.y = c.in_place ? (c.pass == Pass::backward ? b.dy : b.x) : room(2, c.bytes());
  fill(machine, c.format, inputs, b.x, 88172645463325252U, 1.0);
  fill(machine, c.format, inputs, b.dy, 1234567890123456789U, 0.0);  // were it x's, dx would be rounding alone
  for (Index k = 0; k < c.channels(); ++k) {
    b.weight.push_back(1.0F + 0.01F * static_cast<float>(k % 7));
    b.bias.push_back(0.1F * static_cast<float>(k % 5));
  }
  return b;
}

double median(std::vector<double> values, double at = 0.5) {
  const auto nth = static_cast<std::ptrdiff_t>(at * static_cast<double>(values.size() - 1) + 0.5);
  std::nth_element(values.begin(), values.begin() + nth, values.end());
  return values[static_cast<std::size_t>(nth)];
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
Entry warm_up(Machine& machine, const std::string& name, const std::function<void()>& run) {
  const double first = machine.seconds_of(run, 1);
  const double seconds = std::max(machine.seconds_of(run, 3), 1e-9);
  const auto calls_of = [&](double time) {
    return machine.keeps_caches() ? static_cast<int>(std::clamp(time / seconds, 1.0, 2000.0)) : 1;
  };
  const int calls = calls_of(50e-6);
  const int calls_before = calls_of(100e-6);
  return {name, run, calls, calls_before, (calls + calls_before) * std::min(first, machine.seconds_of(run, 2)), {}};
}

// Returns the time of all calls.
double time_rounds(Machine& machine, std::vector<Entry>& entries, int rounds) {
  double total = 0;
  std::mt19937 random(1);
  std::vector<std::size_t> order(entries.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  for (int r = 0; r < rounds; ++r) {
    // What a contender finds in the caches depends on who came before it: in a fixed order always the same one.
    std::shuffle(order.begin(), order.end(), random);
    for (const std::size_t k : order) {
      Entry& entry = entries[k];
      machine.seconds_of(entry.run, entry.calls_before);
      entry.seconds.push_back(machine.seconds_of(entry.run, entry.calls));
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
bool run_case(benchmark::State& state, const Case& c, const std::vector<Contender>& contenders, Machine& machine,
              const Options& options) {
  const Buffers buffers = buffers_of(c, machine);
  std::vector<Entry> entries;
  std::vector<std::byte> expected;
  bool agree = true;
  double round = 0;
  for (const Contender& contender : contenders) {
    const Run run = contender.make(c, buffers);
    if (!run.call) continue;
    if (!c.in_place) machine.room(2, c.bytes());  // what a contender does not write is not to look like a result
    run.call();
    // In place, each call has the results of the one before as its input.
    if (run.result && !c.in_place) {
      std::vector<std::byte> found(c.bytes());
      machine.read(run.result(), found.size(), found.data());
      if (expected.empty()) expected = found;
      const double apart = difference(c, expected, found);
      state.counters[contender.name + ":difference"] = apart;
      // Of a few values the deviation may be tiny beside the mean, and the peers' errors grow with the ratio.
      const bool has_many_values = c.elements() / c.channels() >= 32;
      if (has_many_values && !(apart <= 1)) {
        agree = false;
        std::fprintf(stderr, "%s: %s is %g tolerances from ours\n", c.text().c_str(), contender.name.c_str(), apart);
      }
    }
    entries.push_back(warm_up(machine, contender.name, run.call));
    round += entries.back().round_seconds;
  }
  const int rounds = std::clamp(static_cast<int>(options.seconds_per_case / round), options.fewest_rounds, 301);
  for ([[maybe_unused]] auto _ : state) state.SetIterationTime(time_rounds(machine, entries, rounds));
  report(entries, state.counters);
  state.counters["rounds"] = rounds;
  state.counters["bytes"] = static_cast<double>(c.bytes());
  return agree;
}

}  // namespace

int run(int argc, char** argv, Machine& machine, const std::vector<Contender>& contenders,
        const std::function<std::vector<Case>(bool full)>& cases) {
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
  bool all_agree = true;
  for (const Case& c : cases(full)) {
    benchmark::RegisterBenchmark(c.text().c_str(),
                                 [&, c](benchmark::State& s) {
                                   try {
                                     all_agree = run_case(s, c, contenders, machine, options) && all_agree;
                                   } catch (const std::exception& e) {  // no memory, for example
                                     all_agree = false;
                                     s.SkipWithError(e.what());
                                   }
                                 })
        ->Iterations(1)
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
  }
  benchmark::RunSpecifiedBenchmarks();
  return all_agree ? 0 : 1;
}

}  // namespace bench
