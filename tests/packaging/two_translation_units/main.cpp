#include <cstdio>

namespace baseline {
void print_bits();
}
namespace wide {
void print_bits();
}

int main() {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    std::fputs("this processor has no AVX2 and FMA\n", stderr);
    return 77;
  }
#endif
#ifdef HAS_BASELINE
  baseline::print_bits();
#endif
#ifdef HAS_WIDE
  wide::print_bits();
#endif
}
