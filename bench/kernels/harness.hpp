#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "case.hpp"

/// @file
/// Times one pass of batch normalization by several contenders, interleaved, on the same memory. See docs/benchmarks.md.
///
/// One Google Benchmark is one case. One of its iterations is one round: every contender in turn, each measured after a call
/// of its own that is not; ratios are taken within a round, and the counters are their medians and quartiles.

namespace bench {

/// @brief What the contenders run on: its memory, and its clock.
class Machine {
 public:
  virtual ~Machine() = default;

  /// @brief Memory for a tensor. @param which  below 3: the same memory every time, if it is large enough.
  virtual std::byte* room(std::size_t which, std::size_t bytes) = 0;
  virtual void write(const std::byte* from, std::size_t bytes, std::byte* to) = 0;
  virtual void read(const std::byte* from, std::size_t bytes, std::byte* to) = 0;
  /// @brief Whether a call finds in the caches what the last one has left there.
  virtual bool keeps_caches() const { return true; }
  /// @brief The time of a call, of so many.
  virtual double seconds_of(const std::function<void()>& call, int calls) = 0;
};

/// @brief What a program's main() does after benchmark::Initialize(): the first contender is the measure of all others.
/// @return its exit status: 1 if results differ.
int run(int argc, char** argv, Machine& machine, const std::vector<Contender>& contenders,
        const std::function<std::vector<Case>(bool full)>& cases);

}  // namespace bench
