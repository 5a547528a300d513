#include "fiber.hpp"

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include <sys/mman.h>

#include "sanitizers.hpp"

#if !defined(__x86_64__)
#error "fibers are written for x86-64 alone"
#endif

namespace cuda_emulation {
namespace {

constexpr std::size_t guard_bytes = 4096;
#if defined(CUDA_EMULATION_ASAN) || defined(CUDA_EMULATION_TSAN)
constexpr std::size_t stack_bytes = std::size_t{256} << 10;
#else
constexpr std::size_t stack_bytes = std::size_t{64} << 10;
#endif

}  // namespace

// Saves the registers that a call keeps and the stack pointer, and takes those of the other stack.
extern "C" void cuda_emulation_switch(void** save, void* load);
asm(R"(
.text
.globl cuda_emulation_switch
.type cuda_emulation_switch,@function
cuda_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_emulation_switch, .-cuda_emulation_switch
)");

static void* first_frame(std::byte* end, Fiber::Entry entry) {
  constexpr int kept_registers = 6;
  auto** top = reinterpret_cast<void**>(end);
  *--top = nullptr;  // where entry() would return to; it keeps the stack aligned as after a call
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < kept_registers; ++i) *--top = nullptr;
  return top;
}
CUDA_EMULATION_NO_TSAN static void switch_stacks(void** save, void* load) { cuda_emulation_switch(save, load); }

Fiber::Fiber() {
  void* p = mmap(nullptr, guard_bytes + stack_bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED || mprotect(p, guard_bytes, PROT_NONE) != 0) {
    std::perror("CUDA emulation: a stack");
    std::abort();
  }
  memory_ = static_cast<std::byte*>(p);
}
Fiber::~Fiber() {
#if defined(CUDA_EMULATION_TSAN)
  if (tsan_own_ != nullptr) __tsan_destroy_fiber(tsan_own_);
#endif
  munmap(memory_, guard_bytes + stack_bytes);
}

void Fiber::prepare(Entry entry) {
  unpoison(memory_ + guard_bytes, stack_bytes);
  own_ = first_frame(memory_ + guard_bytes + stack_bytes, entry);
#if defined(CUDA_EMULATION_TSAN)
  // One for all blocks: the race detector remembers a few hundred at a time.
  if (tsan_own_ == nullptr) tsan_own_ = __tsan_create_fiber(0);
#endif
}

// The thread sanitizer keeps a stack of calls for each fiber: what is called on one must return on it.
CUDA_EMULATION_NO_TSAN void Fiber::resume() {
#if defined(CUDA_EMULATION_TSAN)
  tsan_scheduler_ = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(tsan_own_, without_synchronization);
#endif
#if defined(CUDA_EMULATION_ASAN)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, memory_ + guard_bytes, stack_bytes);
#endif
  switch_stacks(&scheduler_, own_);
#if defined(CUDA_EMULATION_ASAN)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

CUDA_EMULATION_NO_TSAN void Fiber::switch_to_scheduler([[maybe_unused]] bool for_good) {
#if defined(CUDA_EMULATION_TSAN)
  __tsan_switch_to_fiber(tsan_scheduler_, without_synchronization);
#endif
#if defined(CUDA_EMULATION_ASAN)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fake, scheduler_stack_, scheduler_stack_size_);
#endif
  switch_stacks(&own_, scheduler_);
#if defined(CUDA_EMULATION_ASAN)
  __sanitizer_finish_switch_fiber(fake, &scheduler_stack_, &scheduler_stack_size_);
#endif
}

void Fiber::suspend() { switch_to_scheduler(false); }
void Fiber::leave() {
  switch_to_scheduler(true);
  std::abort();
}

void Fiber::abandon() {
#if defined(CUDA_EMULATION_TSAN)
  tsan_own_ = nullptr;  // it cannot be destroyed amidst what it does
#endif
}

void fiber_begins([[maybe_unused]] Fiber& fiber) {
#if defined(CUDA_EMULATION_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, &fiber.scheduler_stack_, &fiber.scheduler_stack_size_);
#endif
}

}  // namespace cuda_emulation
