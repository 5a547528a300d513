// A backend whose buffers cannot be read where they are const, and whose formats are known too late.
// expect: also const, size() and resize(n)
// expect: backend: lacks  static constexpr bool accepts(syncbn::ScalarKind)
#include <vector>

#include <syncbn/syncbn.hpp>

template <class T>
struct Buffer {
  std::vector<T> values;
#ifdef SYNCBN_MISTAKE
  T* data();
#else
  T* data() { return values.data(); }
  const T* data() const { return values.data(); }
#endif
  std::size_t size() const { return values.size(); }
  void resize(std::size_t n) { values.resize(n); }
};

struct Device : syncbn::CpuBackend<float> {
  template <class T>
  using buffer = Buffer<T>;
#ifdef SYNCBN_MISTAKE
  static bool accepts(syncbn::ScalarKind kind);
#endif
};

static_assert(syncbn::check_backend<Device>());
