// Compiled once for each instruction set, with BENCH_ISA as its name.

#include <cstring>
#include <memory>

#include <syncbn/backends/cpu_backend.hpp>
#include <syncbn/backends/openmp_executor.hpp>

#include "case.hpp"
#include "run_of_layer.hpp"

namespace bench {
namespace {

template <class T, class P>
Run make_with_threads(const Case& c, const Buffers& buffers) {
  if (c.threads == 1) return run_of_layer<T, syncbn::CpuBackend<P, syncbn::SerialExecutor>>(c, buffers);
  return run_of_layer<T, syncbn::CpuBackend<P, syncbn::OpenMpExecutor>>(c, buffers);
}

Run make(const Case& c, const Buffers& buffers) {
  switch (c.format) {
    case Format::f32:
      return make_with_threads<float, float>(c, buffers);
    case Format::f64:
      return make_with_threads<double, double>(c, buffers);
    case Format::bf16:
      return make_with_threads<syncbn::BFloat16, float>(c, buffers);
    case Format::f16:
      return make_with_threads<syncbn::Float16, float>(c, buffers);
  }
  return {};
}

// A case whose inputs are slices, as users do it whose library takes no strides.
Run make_with_copies(const Case& c, const Buffers& buffers) {
  if (!c.sliced) return {};
  struct Copies {
    std::vector<std::byte> x, dy;
    Buffers buffers;
  };
  auto copies = std::make_shared<Copies>();
  copies->buffers = buffers;
  copies->x.resize(c.bytes());
  copies->dy.resize(c.bytes());
  copies->buffers.x = copies->x.data();
  copies->buffers.dy = copies->dy.data();
  Case dense = c;
  dense.sliced = false;
  // Rows of the last dimension, with their channels where those are neighbours.
  const bool has_channels = c.layout == Layout::channels_last && c.extents.size() > 2;
  const auto unit = static_cast<std::size_t>(has_channels ? c.channels() : 1) * bytes_of(c.format);
  const std::size_t row = static_cast<std::size_t>(c.extents.back()) * unit;
  const std::size_t pitch = static_cast<std::size_t>(c.input_extents().back()) * unit;
  const auto copy = [=](const std::byte* from, std::vector<std::byte>& to) {
    for (std::size_t r = 0; r * row < to.size(); ++r) std::memcpy(to.data() + r * row, from + r * pitch, row);
  };
  const bool backward = c.pass == Pass::backward;
  copy(buffers.x, copies->x);
  copy(buffers.dy, copies->dy);
  const Run run = make(dense, copies->buffers);
  return {[=, x = buffers.x, dy = buffers.dy] {
            copy(x, copies->x);
            if (backward) copy(dy, copies->dy);
            run.call();
          },
          run.result};
}

}  // namespace

Contender BENCH_ISA(bool copies_first) {
#define BENCH_TEXT_OF(x) #x
#define BENCH_TEXT(x) BENCH_TEXT_OF(x)
  if (copies_first) return {BENCH_TEXT(BENCH_ISA) ".copied", make_with_copies};
  return {BENCH_TEXT(BENCH_ISA), make};
}

}  // namespace bench
