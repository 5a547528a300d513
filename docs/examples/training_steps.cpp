// A loop that trains: after the first step of a size nothing is allocated any more, which is counted here.

#include <cstdio>
#include <cstdlib>
#include <new>
#include <vector>

#include <syncbn/syncbn.hpp>

namespace {
int allocations = 0;
}

[[gnu::noinline]] void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

int main() {
  constexpr int steps = 10;
  std::vector<float> in(32 * 16 * 8 * 8, 1), out(in.size()), grad(in.size(), 1);
  in[0] = 2;
  const syncbn::TensorView<float> x(in.data(), {32, 16, 8, 8}), y(out.data(), {32, 16, 8, 8});
  const syncbn::TensorView<float> dy(grad.data(), {32, 16, 8, 8});
  std::vector<int> allocations_after(steps);

  // [begin]
  syncbn::BatchNorm<2> bn(16);
  syncbn::BatchNorm<2>::Saved saved;  // stays, as the layer does, with its memory
  for (int step = 0; step < steps; ++step) {
    bn.forward(x, y, saved);        // into `saved`, instead of returning a new one
    bn.backward(dy, x, saved, dy);  // dx may take the place of dy
    bn.zero_grad();
    allocations_after[static_cast<std::size_t>(step)] = allocations;
  }
  // [end]

  std::printf("allocations after the first step: %d, after the last: %d\n", allocations_after.front(),
              allocations_after.back());
  return allocations_after.front() == allocations_after.back() ? 0 : 1;
}
