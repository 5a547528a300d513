#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cuda_runtime.h>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "fiber.hpp"

// One block of a grid on one operating-system thread: each CUDA thread is a fiber that runs until it has to wait for others.

namespace cuda_emulation {

inline constexpr unsigned lanes_of_warp = 32;

enum class WarpOperation : std::uint8_t { sync, read, read_up, read_down, read_xor, ballot, any, all, add, min, max };

// Where the source calls a barrier: threads of a block have to meet at the same one.
struct Site {
  const char* file;
  int line;
};

// What a lane brings to a collective of its warp, and what it gets.
struct WarpCall {
  WarpOperation operation;
  unsigned mask;
  unsigned argument = 0;  // lane or distance
  unsigned width = lanes_of_warp;
  std::size_t bytes = 0;  // of a value
  alignas(16) std::byte value[16] = {};
  bool predicate = false;
  unsigned result = 0;  // of votes
};

struct BarrierResult {
  int count;  // threads whose predicate held
  int all, any;
};

class ThreadBlock {
 public:
  // The one that runs on this operating-system thread. Kernels have no other way to it.
  static ThreadBlock& current();

  // Runs body() in each thread of a block. False if a rule was broken.
  bool run(const std::function<void()>& body, dim3 shape, unsigned seed);

  // Called by threads.
  BarrierResult barrier(bool predicate, Site site);
  void warp(WarpCall& call);
  // An access to an address that is no multiple of so many bytes.
  [[noreturn]] void misaligned(std::size_t bytes);
  // How many collectives the calling thread has taken part in, and which thread it is.
  unsigned collectives() const { return current_->collectives; }
  unsigned thread() const { return current_->number; }

 private:
  enum class State : std::uint8_t { ready, at_barrier, in_warp, done };

  struct Thread {
    Fiber fiber;
    uint3 index{};
    unsigned number = 0;
    State state = State::done;
    WarpCall* call = nullptr;
    unsigned collectives = 0;

    unsigned lane() const { return number % lanes_of_warp; }
    unsigned bit() const { return 1U << lane(); }
  };
  // Lanes with the same mask that wait for each other.
  struct Meeting {
    unsigned mask;
    unsigned arrived;
    WarpOperation operation;
  };
  struct Warp {
    std::vector<Meeting> meetings;
    unsigned existing = 0;
    unsigned exited = 0;
    char tag = 0;  // for the race detector
  };

  static void thread_main();
  void prepare(dim3 shape);
  void schedule();
  void wait(State state);
  void exits();
  void open_barrier();
  void complete(const Meeting& meeting, unsigned first_thread);
  template <class T>
  T reduced(const Meeting& meeting, unsigned first_thread, WarpOperation operation) const;
  std::string who(const Thread& thread) const;
  void report(std::string_view what);
  // Reports, and ends the calling thread and its block.
  [[noreturn]] void break_off(std::string_view what);
  void report_deadlock();

  std::vector<std::unique_ptr<Thread>> threads_;  // kept from block to block
  std::vector<Warp> warps_;
  std::vector<unsigned> order_;
  std::mt19937 random_;
  const std::function<void()>* body_ = nullptr;
  Thread* current_ = nullptr;
  unsigned size_ = 0;
  unsigned alive_ = 0;
  bool broken_ = false;

  unsigned at_barrier_ = 0;
  Site site_{};
  BarrierResult votes_{}, result_{};
  char begin_tag_ = 0, barrier_tag_ = 0, end_tag_ = 0;  // for the race detector
};

}  // namespace cuda_emulation
