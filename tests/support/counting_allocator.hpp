#pragma once

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

/// @file
/// Counts what the whole program allocates by operator new, and therefore replaces it: for one file of a program only.
/// With the thread sanitizer, whose own cannot be replaced, nothing is counted.

#if defined(__SANITIZE_THREAD__)
#define SYNCBN_TEST_COUNTS_NEW 0
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SYNCBN_TEST_COUNTS_NEW 0
#endif
#endif
#if !defined(SYNCBN_TEST_COUNTS_NEW)
#define SYNCBN_TEST_COUNTS_NEW 1
#endif

namespace syncbn_test {

/// @brief Whether anything is counted in this build.
inline constexpr bool counts_allocations = SYNCBN_TEST_COUNTS_NEW != 0;

/// @brief Calls of operator new, and bytes asked for, since the program began.
struct Allocations {
  std::size_t calls = 0;
  std::size_t bytes = 0;

  friend Allocations operator-(Allocations a, Allocations b) { return {a.calls - b.calls, a.bytes - b.bytes}; }
};

namespace detail {

inline std::atomic<std::size_t> allocation_calls{0};
inline std::atomic<std::size_t> allocation_bytes{0};

inline void* allocate_or_null(std::size_t bytes, std::size_t alignment) noexcept {
  ++allocation_calls;
  allocation_bytes += bytes;
  return std::aligned_alloc(alignment, (bytes / alignment + 1) * alignment);  // of a multiple of the alignment, not 0
}

inline void* allocate(std::size_t bytes, std::size_t alignment) {
  void* const p = allocate_or_null(bytes, alignment);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}

}  // namespace detail

/// @brief Everything so far, on all threads.
inline Allocations allocations() { return {detail::allocation_calls, detail::allocation_bytes}; }

}  // namespace syncbn_test

#if SYNCBN_TEST_COUNTS_NEW
// Replacements may not be inline; and inlined all the same, g++ takes new and free for a mismatched pair. All forms,
// since a sanitizer's own do not call each other.
#define SYNCBN_TEST_REPLACE_NEW(form)                                                         \
  [[gnu::noinline]] void* operator form(std::size_t bytes) {                                  \
    return syncbn_test::detail::allocate(bytes, alignof(std::max_align_t));                   \
  }                                                                                           \
  [[gnu::noinline]] void* operator form(std::size_t bytes, std::align_val_t alignment) {      \
    return syncbn_test::detail::allocate(bytes, static_cast<std::size_t>(alignment));         \
  }                                                                                           \
  [[gnu::noinline]] void* operator form(std::size_t bytes, const std::nothrow_t&) noexcept {  \
    return syncbn_test::detail::allocate_or_null(bytes, alignof(std::max_align_t));           \
  }                                                                                           \
  [[gnu::noinline]] void* operator form(std::size_t bytes, std::align_val_t alignment,        \
                                        const std::nothrow_t&) noexcept {                     \
    return syncbn_test::detail::allocate_or_null(bytes, static_cast<std::size_t>(alignment)); \
  }
#define SYNCBN_TEST_REPLACE_DELETE(form)                                                                  \
  [[gnu::noinline]] void operator form(void* p) noexcept { std::free(p); }                                \
  [[gnu::noinline]] void operator form(void* p, std::size_t) noexcept { std::free(p); }                   \
  [[gnu::noinline]] void operator form(void* p, std::align_val_t) noexcept { std::free(p); }              \
  [[gnu::noinline]] void operator form(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); } \
  [[gnu::noinline]] void operator form(void* p, const std::nothrow_t&) noexcept { std::free(p); }         \
  [[gnu::noinline]] void operator form(void* p, std::align_val_t, const std::nothrow_t&) noexcept { std::free(p); }

SYNCBN_TEST_REPLACE_NEW(new)
SYNCBN_TEST_REPLACE_NEW(new[])
SYNCBN_TEST_REPLACE_DELETE(delete)
SYNCBN_TEST_REPLACE_DELETE(delete[])

#undef SYNCBN_TEST_REPLACE_NEW
#undef SYNCBN_TEST_REPLACE_DELETE
#endif
#undef SYNCBN_TEST_COUNTS_NEW
