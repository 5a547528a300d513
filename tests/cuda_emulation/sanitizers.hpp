#pragma once

#include <cstddef>

// What the sanitizers have to be told about fibers, device memory and the emulator's own accesses.

// g++ defines macros, clang has features.
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CUDA_EMULATION_WITH_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define CUDA_EMULATION_WITH_TSAN 1
#endif
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(CUDA_EMULATION_WITH_ASAN)
#define CUDA_EMULATION_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__SANITIZE_THREAD__) || defined(CUDA_EMULATION_WITH_TSAN)
#define CUDA_EMULATION_TSAN 1
#include <sanitizer/tsan_interface.h>
#define CUDA_EMULATION_NO_TSAN __attribute__((no_sanitize("thread")))
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#else
#define CUDA_EMULATION_NO_TSAN
#endif

namespace cuda_emulation {

inline void poison([[maybe_unused]] const void* p, [[maybe_unused]] std::size_t bytes) {
#if defined(CUDA_EMULATION_ASAN)
  __asan_poison_memory_region(p, bytes);
#endif
}
inline void unpoison([[maybe_unused]] const void* p, [[maybe_unused]] std::size_t bytes) {
#if defined(CUDA_EMULATION_ASAN)
  __asan_unpoison_memory_region(p, bytes);
#endif
}

// Orders what threads did before release() before what they do after acquire().
inline void release([[maybe_unused]] void* at) {
#if defined(CUDA_EMULATION_TSAN)
  __tsan_release(at);
#endif
}
inline void acquire([[maybe_unused]] void* at) {
#if defined(CUDA_EMULATION_TSAN)
  __tsan_acquire(at);
#endif
}

// The race detector sees the kernels' accesses, not the emulator's.
class Unseen {
 public:
#if defined(CUDA_EMULATION_TSAN)
  Unseen() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Unseen() {
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  }
#else
  Unseen() {}  // NOLINT(modernize-use-equals-default): an unused variable otherwise
#endif
  Unseen(const Unseen&) = delete;
  Unseen& operator=(const Unseen&) = delete;
};

#if defined(CUDA_EMULATION_TSAN)
// Race detection must not take a switch for an order of events: TSan's flag for that.
inline constexpr unsigned without_synchronization = 1;
#endif

}  // namespace cuda_emulation
