// Compiled twice, with UNIT a name of its own each time. Prints what every kernel computes, as bits.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include <syncbn/interop/eigen.hpp>
#include <syncbn/interop/eigen_tensor.hpp>
#include <syncbn/syncbn.hpp>

#if WITH_OPENMP
#include <syncbn/backends/openmp_executor.hpp>
#endif
#if WITH_MPI
#include <syncbn/backends/mpi_communicator.hpp>
#endif

#define UNIT_NAME_OF(unit) #unit
#define UNIT_NAME(unit) UNIT_NAME_OF(unit)

namespace UNIT {

void print_bits();

namespace {

// FNV-1a: any differing bit shows.
template <class T>
void print_hash(const char* what, const std::vector<T>& values) {
  std::uint64_t hash = 14695981039346656037U;
  for (const T& value : values) {
    unsigned char bytes[sizeof(T)];
    std::memcpy(bytes, &value, sizeof(T));
    for (const unsigned char byte : bytes) hash = (hash ^ byte) * 1099511628211U;
  }
  std::printf("%s %s %016llx\n", UNIT_NAME(UNIT), what, static_cast<unsigned long long>(hash));
}

template <class T>
std::vector<T> numbers(std::size_t count, double offset) {
  std::vector<T> result(count);
  for (std::size_t i = 0; i < count; ++i) {
    result[i] = static_cast<T>(offset + static_cast<double>(i * i % 997) / 31.0);
  }
  return result;
}

template <class T>
syncbn::TensorView<T> nchw(std::vector<T>& values) {
  return syncbn::TensorView<T>(values.data(), {4, 5, 7, 9});
}
template <class T>
syncbn::TensorView<T> nhwc(std::vector<T>& values) {
  return syncbn::TensorView<T>::channels_last(values.data(), {4, 5, 7, 9});
}

template <class T, class View>
void print_step(const char* what, View view) {
  constexpr std::size_t elements = 4 * 5 * 7 * 9;
  std::vector<T> x = numbers<T>(elements, -7);
  std::vector<T> dy = numbers<T>(elements, 3);
  std::vector<T> y(elements);
  std::vector<T> dx(elements);
  syncbn::BatchNorm<2, syncbn::CpuBackend<T>> bn(5);
  const auto saved = bn.forward(view(x), view(y));
  bn.backward(view(dy), view(x), saved, view(dx));
  print_hash(what, y);
  print_hash(what, dx);
}

}  // namespace

void print_bits() {
  print_step<float>("f32 NCHW", nchw<float>);
  print_step<float>("f32 NHWC", nhwc<float>);
  print_step<double>("f64 NCHW", nchw<double>);
  print_step<double>("f64 NHWC", nhwc<double>);
}

}  // namespace UNIT
