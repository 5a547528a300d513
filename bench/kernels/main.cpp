// The kernels for processors, beside oneDNN, LibTorch and the limits of memory.

#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <malloc.h>
#include <memory>

#include <benchmark/benchmark.h>

#include "harness.hpp"
#include "shapes.hpp"

namespace bench {
namespace {

class Host final : public Machine {
 public:
  std::byte* room(std::size_t which, std::size_t bytes) override {
    constexpr std::size_t page = 4096;
    const std::size_t rounded = (bytes + page) / page * page;
    if (size_[which] < rounded) {
      memory_[which].reset(static_cast<std::byte*>(std::aligned_alloc(page, rounded)));
      size_[which] = rounded;
    }
    std::memset(memory_[which].get(), 0, rounded);  // every page is touched
    return memory_[which].get();
  }
  void write(const std::byte* from, std::size_t bytes, std::byte* to) override { std::memcpy(to, from, bytes); }
  void read(const std::byte* from, std::size_t bytes, std::byte* to) override { std::memcpy(to, from, bytes); }
  double seconds_of(const std::function<void()>& call, int calls) override {
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < calls; ++i) call();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / calls;
  }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::array<std::unique_ptr<std::byte, Free>, 3> memory_;
  std::array<std::size_t, 3> size_{};
};

// What differs at -O2 shows in these, and time is short.
Contender without_variants(Contender contender) {
  contender.make = [make = contender.make](const Case& c, const Buffers& buffers) -> Run {
    if (c.threads > 1 || !c.affine || c.in_place || c.sliced || c.unaligned) return {};
    return make(c, buffers);
  };
  return contender;
}

// Ours at the widest instruction set that the processor has is the measure of all others.
std::vector<Contender> all_contenders() {
  std::vector<Contender> all;
  const auto add = [&](std::vector<Contender> more) { all.insert(all.end(), more.begin(), more.end()); };
  // As on a processor without it, where the peers are told so as well (tools/bench --avx2).
  const bool may_avx512 = std::getenv("BENCH_WITHOUT_AVX512") == nullptr;
  const bool has_avx512 = may_avx512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (has_avx512) add({syncbn_avx512()});
  if (has_avx2) add({syncbn_avx2()});
  add({syncbn_sse2()});
  if (has_avx512) {
    add({syncbn_avx512(true), without_variants(syncbn_avx512_O2())});
  } else if (has_avx2) {
    add({syncbn_avx2(true), without_variants(syncbn_avx2_O2())});
  }
#if BENCH_ONEDNN
  add(contenders_onednn());
#endif
#if BENCH_TORCH
  add(contenders_torch());
#endif
  if (has_avx512) {
    add(limits_avx512());
  } else if (has_avx2) {
    add(limits_avx2());
  }
  return all;
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  // Peers that allocate outputs get memory that they have had before, not page faults.
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);

  benchmark::Initialize(&argc, argv);
  benchmark::AddCustomContext("peers", BENCH_PEERS);
  benchmark::AddCustomContext("compiler", __VERSION__);
  bench::Host host;
  return bench::run(argc, argv, host, bench::all_contenders(), bench::cases);
}
