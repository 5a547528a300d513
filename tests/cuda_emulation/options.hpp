#pragma once

#include <cstddef>
#include <functional>
#include <string>

// How the emulator runs kernels, and what it does when one breaks a rule.

namespace cuda_emulation {

enum class Order { ascending, descending, shuffled };

struct Options {
  Order order = Order::ascending;  // of threads in a block, and of blocks
  unsigned seed = 1;               // of shuffles
  bool deferred = false;           // whether streams do nothing before somebody waits for them
  unsigned workers = 1;            // operating-system threads that share the blocks of a grid
  int devices = 2;
  bool asynchronous = false;  // whether each stream has a thread that does its work in the background; before deferred
};

// Set by CUDA_EMULATION_ORDER (ascending, descending, shuffled), _SEED, _DEFERRED (0, 1), _ASYNCHRONOUS (0, 1) and _WORKERS;
// may be changed while no kernel runs.
Options& options();

// A kernel, or a call, did what no device would do well. Prints and aborts, unless it is expected.
void violate(const std::string& what);

// Collects violations instead: for the emulator's own tests. One at a time. A thread of a kernel that broke a rule is ended
// with all of its block.
class ExpectViolations {
 public:
  ExpectViolations();
  ~ExpectViolations();
  ExpectViolations(const ExpectViolations&) = delete;
  ExpectViolations& operator=(const ExpectViolations&) = delete;

  // All texts, one a line.
  std::string texts() const;
};

}  // namespace cuda_emulation
