#pragma once

#include <cstddef>
#include <cstdlib>
#include <limits>
#include <new>

/// @file
/// Replaces the program's operator new by one that counts, and fails on cue, for each thread by itself. For one source file
/// of a program only. With the thread sanitizer, whose own cannot be replaced, nothing is counted and nothing fails.

#if defined(__SANITIZE_THREAD__)
#define SYNCBN_TEST_OWN_NEW 0
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SYNCBN_TEST_OWN_NEW 0
#endif
#endif
#if !defined(SYNCBN_TEST_OWN_NEW)
#define SYNCBN_TEST_OWN_NEW 1
#endif

namespace syncbn_test {

/// @brief The calling thread's allocations.
class FailingNew {
 public:
  /// @brief The k-th allocation from now on throws std::bad_alloc, k = 1, 2, ...; those after it do not.
  static void fail_at(std::size_t k) noexcept {
    count_ = 0;
    failing_ = k;
  }
  /// @brief No allocation throws from now on. @return how many there were since fail_at().
  static std::size_t stop() noexcept {
    failing_ = 0;
    return count_;
  }
  /// @brief Counts, without failing.
  static void watch() noexcept { fail_at(std::numeric_limits<std::size_t>::max()); }

  static void* allocate(std::size_t bytes) {
    if (failing_ != 0 && ++count_ == failing_) throw std::bad_alloc();
    if (void* memory = std::malloc(bytes == 0 ? 1 : bytes)) return memory;
    throw std::bad_alloc();
  }

 private:
  static inline thread_local std::size_t count_ = 0;
  static inline thread_local std::size_t failing_ = 0;  // 0: nothing is counted
};

}  // namespace syncbn_test

#if SYNCBN_TEST_OWN_NEW
// Not inlined, or g++ takes the pairs of new and free for mistakes. Those with an alignment stay the library's.
#define SYNCBN_TEST_REPLACE_NEW(form)                                                                           \
  [[gnu::noinline]] void* operator form(std::size_t bytes) { return syncbn_test::FailingNew::allocate(bytes); } \
  [[gnu::noinline]] void* operator form(std::size_t bytes, const std::nothrow_t&) noexcept {                    \
    return std::malloc(bytes == 0 ? 1 : bytes);                                                                 \
  }
#define SYNCBN_TEST_REPLACE_DELETE(form)                                                          \
  [[gnu::noinline]] void operator form(void* memory) noexcept { std::free(memory); }              \
  [[gnu::noinline]] void operator form(void* memory, std::size_t) noexcept { std::free(memory); } \
  [[gnu::noinline]] void operator form(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
SYNCBN_TEST_REPLACE_NEW(new)
SYNCBN_TEST_REPLACE_NEW(new[])
SYNCBN_TEST_REPLACE_DELETE(delete)
SYNCBN_TEST_REPLACE_DELETE(delete[])
#undef SYNCBN_TEST_REPLACE_NEW
#undef SYNCBN_TEST_REPLACE_DELETE
#endif
#undef SYNCBN_TEST_OWN_NEW
