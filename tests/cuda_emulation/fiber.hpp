#pragma once

#include <cstddef>

// A stack of its own that can be switched to and from: one for each thread of a block.

namespace cuda_emulation {

class Fiber {
 public:
  using Entry = void (*)();

  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Calls entry() on this stack at the next resume(), from its very beginning. entry() must not return: it ends in leave().
  void prepare(Entry entry);
  // From the scheduler: runs until the fiber suspends itself or leaves.
  void resume();
  // From the fiber: back to the scheduler.
  void suspend();
  // The same for good.
  [[noreturn]] void leave();
  // It will never go on from where it is suspended.
  void abandon();

 private:
  void switch_to_scheduler(bool for_good);
  friend void fiber_begins(Fiber&);

  std::byte* memory_ = nullptr;
  void* own_ = nullptr;  // stack pointers
  void* scheduler_ = nullptr;
  // Of the sanitizers.
  [[maybe_unused]] const void* scheduler_stack_ = nullptr;
  [[maybe_unused]] std::size_t scheduler_stack_size_ = 0;
  [[maybe_unused]] void* tsan_own_ = nullptr;
  [[maybe_unused]] void* tsan_scheduler_ = nullptr;
};

// To be called first on the fiber's stack.
void fiber_begins(Fiber& fiber);

}  // namespace cuda_emulation
