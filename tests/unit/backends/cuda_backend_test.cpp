#include <syncbn/backends/cuda_backend.cuh>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <sys/mman.h>

#include <syncbn/backends/detail/cuda_handles.hpp>
#include <syncbn/core.hpp>

#include "conformance/backend_laws.hpp"
#include "memory.hpp"
#include "options.hpp"
#include "streams.hpp"
#include "support/catch.hpp"
#include "support/thrown_by.hpp"
#include "traffic.hpp"

// What the laws of backends do not reach: every way through the kernels, and what each of them reads and writes.

using namespace syncbn_test;
using cuda_emulation::CountTraffic;
using cuda_emulation::Traffic;
using syncbn::CudaBackend;
using syncbn::CudaSpace;
using syncbn::TensorView;
using syncbn::detail::CudaStream;

namespace {

// A tensor, the layout it lies in, and whether the emulated device (8 multiprocessors) can keep its channels on chip.
struct Way {
  const char* name;
  std::vector<Index> extents;
  Placement placement;
  bool on_chip;
  bool on_chip_backward;
};
const std::vector<Way>& ways() {
  static const std::vector<Way> all{
      {"rows in registers", {3, 5, 100}, Placement::rows, true, true},
      {"rows in registers, cut anywhere", {5, 9, 7, 7}, Placement::rows, true, true},
      {"rows in shared memory", {1, 4, 40000}, Placement::rows, true, false},
      {"rows in shared memory, cut anywhere", {3, 4, 8001}, Placement::rows, true, true},
      {"rows in parts", {2, 1, 24000}, Placement::rows, false, false},
      {"rows in parts, cut anywhere", {5, 1, 6007}, Placement::rows, false, false},
      {"rows in parts, padded", {4, 1, 50, 101}, Placement::padded, false, false},
      {"short lines", {300, 4, 3}, Placement::rows, true, true},
      {"columns in registers", {60, 40}, Placement::rows, true, true},
      {"columns in registers, slabs left over", {7, 36, 3, 3}, Placement::channels_last, true, true},
      {"columns in shared memory", {900, 128}, Placement::rows, true, true},
      {"columns in parts", {6000, 8}, Placement::rows, false, false},
      {"single columns in registers", {20, 19}, Placement::rows, true, true},
      {"single columns in parts", {3000, 19}, Placement::rows, false, false},
      {"single columns, every other channel", {60, 10, 3}, Placement::sliced, true, false}};
  return all;
}

template <class T>
std::size_t bytes_of(const Way& way) {
  std::size_t size = sizeof(T);
  for (const Index extent : way.extents) size *= static_cast<std::size_t>(extent);
  return size;
}

// Of all memory that a tensor lies in.
template <class F, class T>
Traffic traffic_of(const TensorView<T, CudaSpace>& view, const F& f) {
  Index last = 0;
  for (int d = 0; d < view.rank(); ++d) last += (view.extent(d) - 1) * view.stride(d);
  const CountTraffic count(view.data(), static_cast<std::size_t>(last + 1) * sizeof(T));
  f();
  return count.traffic();
}

// Sectors of 32 bytes that requests touch. The 512 bytes that a warp requests may begin in the middle of one; units that
// are cut, at both ends of every line, are requested element by element.
template <class T>
bool few_sectors(std::size_t sectors, std::size_t bytes, std::size_t passes, const Way& way) {
  const std::size_t lines = bytes / sizeof(T) / static_cast<std::size_t>(way.extents.back());
  const std::size_t cut = 2 * 16 / sizeof(T);
  return sectors <= passes * (bytes / 32 * 17 / 16 + 1 + lines * cut);
}

}  // namespace

TEMPLATE_TEST_CASE("cuda backend: forward, every way", "[cuda]", float, syncbn::BFloat16) {
  using T = TestType;
  CudaBackend<float> backend;
  for (const Way& way : ways()) {
    INFO(way.name);
    const Index channels = way.extents[1];
    const std::vector<T> x = law_elements<T>(way.extents, 5);
    const BackendTensor<CudaBackend<float>, T> input(backend, way.extents, way.placement, x);
    BackendTensor<CudaBackend<float>, T> y(backend, way.extents, way.placement),
        by_steps(backend, way.extents, way.placement);
    syncbn::Moments<CudaBackend<float>> moments;
    syncbn::Statistics<CudaBackend<float>> statistics;
    const auto run = [&] { normalize_alone(backend, input.read(), 1e-5, moments, statistics, {}, {}, y.view()); };
    const std::size_t bytes = bytes_of<T>(way);
    const Traffic of_x = traffic_of(input.read(), run);
    const Traffic of_y = traffic_of(y.read(), run);
    if constexpr (sizeof(T) == 4) CHECK(of_x.loaded_bytes == (way.on_chip ? 1 : 2) * bytes);
    CHECK(of_x.loaded_bytes % bytes == 0);
    CHECK(of_x.stored_bytes == 0);
    CHECK(of_y.loaded_bytes == 0);
    CHECK(of_y.stored_bytes == bytes);
    if (way.placement == Placement::rows && way.extents.size() > 2) {
      CHECK(few_sectors<T>(of_x.load_sectors, bytes, of_x.loaded_bytes / bytes, way));
      CHECK(few_sectors<T>(of_y.store_sectors, bytes, 1, way));
    }

    const Comparison comparison =
        syncbn_test::detail::compare(syncbn_test::detail::on_host(backend, moments),
                                     syncbn_test::detail::facts_of(numbers_of(x), shape_of(way.extents)));
    INFO(comparison.place());
    CHECK(comparison.worst() <= 1);
    normalize(backend, input.read(), statistics, {}, {}, by_steps.view());
    CHECK(same_elements(y.elements(), by_steps.elements()));
    CHECK(y.gaps_are_untouched());
    // In place, and once more.
    BackendTensor<CudaBackend<float>, T> in_place(backend, way.extents, way.placement, x);
    normalize_alone(backend, in_place.read(), 1e-5, moments, statistics, {}, {}, in_place.view());
    CHECK(same_elements(in_place.elements(), y.elements()));
    CHECK(from_backend(backend, std::as_const(statistics).count(), 1)[0] ==
          static_cast<double>(x.size()) / static_cast<double>(channels));
  }
}

TEMPLATE_TEST_CASE("cuda backend: backward, every way", "[cuda]", float, syncbn::Float16) {
  using T = TestType;
  using Backend = CudaBackend<float>;
  Backend backend;
  for (const Way& way : ways()) {
    INFO(way.name);
    const std::vector<T> x = law_elements<T>(way.extents, 6);
    const std::vector<T> dy = law_elements<T>(way.extents, 7);
    const BackendTensor<Backend, T> input(backend, way.extents, way.placement, x);
    const BackendTensor<Backend, T> gradient(backend, way.extents, way.placement, dy);
    BackendTensor<Backend, T> dx(backend, way.extents, way.placement), by_steps(backend, way.extents, way.placement);
    syncbn::Moments<Backend> moments;
    syncbn::Statistics<Backend> statistics;
    syncbn::GradientSums<Backend> sums;
    syncbn::GradientCoefficients<Backend> coefficients;
    normalize_alone(backend, input.read(), 1e-5, moments, statistics, {}, {}, by_steps.view());
    const auto run = [&] {
      propagate_alone(backend, gradient.read(), input.read(), statistics, sums, coefficients, {}, dx.view());
    };
    const std::size_t bytes = bytes_of<T>(way);
    const Traffic of_x = traffic_of(input.read(), run);
    const Traffic of_dy = traffic_of(gradient.read(), run);
    const Traffic of_dx = traffic_of(dx.read(), run);
    if constexpr (sizeof(T) == 4) CHECK(of_x.loaded_bytes == (way.on_chip_backward ? 1 : 2) * bytes);
    CHECK(of_x.loaded_bytes % bytes == 0);
    CHECK(of_dy.loaded_bytes == of_x.loaded_bytes);
    CHECK(of_x.stored_bytes + of_dy.stored_bytes + of_dx.loaded_bytes == 0);
    CHECK(of_dx.stored_bytes == bytes);

    const std::vector<double> mean = from_backend(backend, std::as_const(statistics).mean(), way.extents[1]);
    const Comparison comparison = syncbn_test::detail::compare(syncbn_test::detail::on_host(backend, sums), way.extents,
                                                               numbers_of(dy), numbers_of(x), mean);
    INFO(comparison.place());
    CHECK(comparison.worst() <= 1);
    propagate(backend, gradient.read(), input.read(), statistics, coefficients, {}, by_steps.view());
    CHECK(same_elements(dx.elements(), by_steps.elements()));
    CHECK(dx.gaps_are_untouched());
    BackendTensor<Backend, T> in_place(backend, way.extents, way.placement, dy);
    propagate_alone(backend, in_place.read(), input.read(), statistics, sums, coefficients, {}, in_place.view());
    CHECK(same_elements(in_place.elements(), dx.elements()));
  }
}

TEST_CASE("cuda backend: float tensors with double parameters, every way", "[cuda]") {
  using Backend = CudaBackend<double>;
  Backend backend;
  for (const Way& way : ways()) {
    INFO(way.name);
    const std::vector<float> x = law_elements<float>(way.extents, 6);
    const BackendTensor<Backend, float> input(backend, way.extents, way.placement, x);
    BackendTensor<Backend, float> y(backend, way.extents, way.placement), by_steps(backend, way.extents, way.placement);
    syncbn::Moments<Backend> moments;
    syncbn::Statistics<Backend> statistics;
    syncbn::GradientSums<Backend> sums;
    syncbn::GradientCoefficients<Backend> coefficients;
    normalize_alone(backend, input.read(), 1e-5, moments, statistics, {}, {}, y.view());
    normalize(backend, input.read(), statistics, {}, {}, by_steps.view());
    CHECK(same_elements(y.elements(), by_steps.elements()));
    propagate_alone(backend, input.read(), input.read(), statistics, sums, coefficients, {}, y.view());
    propagate(backend, input.read(), input.read(), statistics, coefficients, {}, by_steps.view());
    CHECK(same_elements(y.elements(), by_steps.elements()));
  }
}

TEST_CASE("cuda backend: dimensions are walked as they lie in memory", "[cuda]") {
  CudaBackend<float> backend;
  const std::vector<Index> extents{2, 3, 32, 32};
  BackendTensor<CudaBackend<float>, float> x(backend, extents, Placement::rows, law_elements<float>(extents, 5));
  syncbn::Moments<CudaBackend<float>> moments(3);
  const auto view = x.read().permute({0, 1, 3, 2});
  const Traffic traffic = traffic_of(view, [&] { backend.accumulate(view, moments.pointers()); });
  CHECK(traffic.loaded_bytes == 2 * 3 * 32 * 32 * 4);
  CHECK(traffic.load_sectors == traffic.loaded_bytes / 32);
}

TEST_CASE("cuda backend: the same bits in every order of threads and blocks", "[cuda]") {
  using Backend = CudaBackend<float>;
  for (const Way& way : ways()) {
    INFO(way.name);
    const std::vector<float> x = law_elements<float>(way.extents, 8);
    std::vector<double> first;
    for (const auto order :
         {cuda_emulation::Order::ascending, cuda_emulation::Order::descending, cuda_emulation::Order::shuffled}) {
      const auto before = std::exchange(cuda_emulation::options().order, order);
      Backend backend;
      const std::vector<double> moments =
          syncbn_test::detail::moments_of<float>(backend, way.extents, x, way.placement).all();
      cuda_emulation::options().order = before;
      if (first.empty()) first = moments;
      CHECK(same_bits(moments, first));
    }
  }
}

TEST_CASE("cuda backend: words and their sums do not reach beyond a part", "[cuda]") {
  // One element of each part is so large that it would show.
  using Backend = CudaBackend<float>;
  Backend backend;
  const std::vector<Index> extents{1, 1, 100003};
  std::vector<float> x(100003, 1.0F);
  x.back() = 3;
  x.front() = -1;
  const auto moments = syncbn_test::detail::moments_of<float>(backend, extents, x, Placement::padded);
  CHECK(moments.count == 100003);
  CHECK(moments.mean[0] == 1);
  CHECK(std::abs(moments.m2[0] - 8) <= 8 * bounds::gamma(100003));
}

TEST_CASE("cuda backend: infinities make the mean infinite, and only their channel's", "[cuda]") {
  using Backend = CudaBackend<float>;
  Backend backend;
  const float infinity = std::numeric_limits<float>::infinity();
  for (const std::vector<Index>& extents : {std::vector<Index>{4, 3, 5}, {2, 3, 30000}, {5000, 3}}) {
    std::vector<float> x = law_elements<float>(extents, 9);
    x[0] = infinity;  // of the first channel
    const auto moments = syncbn_test::detail::moments_of<float>(backend, extents, x, Placement::rows);
    CHECK(moments.mean[0] == infinity);
    CHECK(std::isnan(moments.m2[0]));
    CHECK(std::isfinite(moments.mean[1]));
    CHECK(std::isfinite(moments.m2[2]));
  }
}

TEST_CASE("cuda backend: offsets beyond 32 bits", "[cuda]") {
  // Two samples, 2^33 elements apart, of memory of which only the touched pages exist.
  constexpr Index apart = Index{1} << 33;
  const std::size_t bytes = (static_cast<std::size_t>(apart) + 4096) * sizeof(syncbn::BFloat16);
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  REQUIRE(memory != MAP_FAILED);
  auto* const elements = static_cast<syncbn::BFloat16*>(memory);
  const auto set = [&](Index at, float value) { elements[at] = element<syncbn::BFloat16>(value); };
  for (const bool columns : {false, true}) {
    const std::vector<Index> extents{2, 16, 8};
    const std::vector<Index> strides = columns ? std::vector<Index>{apart, 1, 16} : std::vector<Index>{apart, 8, 1};
    for (Index i = 0; i < 128; ++i) {
      set(i, 1);
      set(apart + i, 3);
    }
    CudaBackend<float> backend;
    const TensorView<syncbn::BFloat16, CudaSpace> view(elements, extents, strides);
    syncbn::Moments<CudaBackend<float>> moments;
    syncbn::Statistics<CudaBackend<float>> statistics;
    normalize_alone(backend, TensorView<const syncbn::BFloat16, CudaSpace>(view), 0, moments, statistics, {}, {}, view);
    CHECK(from_backend(backend, std::as_const(moments).mean(), 16) == std::vector<double>(16, 2));
    int wrong = 0;
    for (Index i = 0; i < 128; ++i) {
      wrong += value_of(elements[i]) != -1 ? 1 : 0;
      wrong += value_of(elements[apart + i]) != 1 ? 1 : 0;
    }
    CHECK(wrong == 0);
  }
  munmap(memory, bytes);
}

// ---- A step ----------------------------------------------------------------------------------------------------------

namespace {

using Layer = syncbn::BatchNorm2d<CudaBackend<float>>;

struct Step {
  Layer& layer;
  BackendTensor<CudaBackend<float>, float>& x;
  BackendTensor<CudaBackend<float>, float>& dy;
  BackendTensor<CudaBackend<float>, float>& y;
  BackendTensor<CudaBackend<float>, float>& dx;
  Layer::Saved& saved;

  void operator()() const {
    layer.forward(x.read(), y.view(), saved);
    layer.backward(dy.read(), x.read(), saved, dx.view());
  }
};

std::vector<double> state_of_layer(Layer& layer) {
  std::vector<double> all;
  CudaBackend<float>& backend = layer.backend();
  for (const auto& view : {layer.running_mean(), layer.running_var(), layer.weight_grad(), layer.bias_grad()}) {
    const std::vector<float> host = from_backend(backend, static_cast<const float*>(view.data()), view.extent(0));
    all.insert(all.end(), host.begin(), host.end());
  }
  all.push_back(static_cast<double>(layer.num_batches_tracked()));
  return all;
}

}  // namespace

TEST_CASE("cuda layer: a step waits for nothing, from the first on, and allocates nothing after that", "[cuda]") {
  for (const std::vector<Index>& extents : {std::vector<Index>{4, 6, 5, 5}, {2, 1, 150, 150}, {0, 6, 5, 5}}) {
    CudaStream s;
    CudaBackend<float> backend(s.get());
    Layer layer(extents[1], {}, {}, backend);
    BackendTensor<CudaBackend<float>, float> x(backend, extents, Placement::rows, law_elements<float>(extents, 1));
    BackendTensor<CudaBackend<float>, float> y(backend, extents, Placement::rows),
        dx(backend, extents, Placement::rows);
    Layer::Saved saved;
    const Step step{layer, x, x, y, dx, saved};
    const long waits = cuda_emulation::waits();
    step();
    const std::size_t allocations = cuda_emulation::all_allocations();
    step();
    layer.eval();
    layer.infer(x.read(), y.view());
    CHECK(cuda_emulation::waits() == waits);
    CHECK(cuda_emulation::all_allocations() == allocations);
  }
}

TEST_CASE("cuda layer: a captured step does the same whenever its graph is launched", "[cuda]") {
  for (const bool cumulative : {false, true}) {
    for (const std::vector<Index>& extents : {std::vector<Index>{4, 6, 5, 5}, {2, 1, 150, 150}, {0, 6, 5, 5}}) {
      INFO(extents[0] << " samples of " << extents[1] << " channels" << (cumulative ? ", cumulative" : ""));
      syncbn::BatchNormOptions options;
      if (cumulative) options.momentum.reset();
      CudaStream s;
      CudaBackend<float> backend(s.get());
      Layer layer(extents[1], options, {}, backend);
      Layer eager(extents[1], options, {}, backend);
      BackendTensor<CudaBackend<float>, float> x(backend, extents, Placement::rows, law_elements<float>(extents, 1));
      BackendTensor<CudaBackend<float>, float> dy(backend, extents, Placement::rows, law_elements<float>(extents, 2));
      BackendTensor<CudaBackend<float>, float> y(backend, extents, Placement::rows),
          dx(backend, extents, Placement::rows);
      BackendTensor<CudaBackend<float>, float> eager_y(backend, extents, Placement::rows);
      BackendTensor<CudaBackend<float>, float> eager_dx(backend, extents, Placement::rows);
      Layer::Saved saved, eager_saved;
      const Step step{layer, x, dy, y, dx, saved};
      const Step eager_step{eager, x, dy, eager_y, eager_dx, eager_saved};
      step();
      eager_step();
      cudaGraph_t graph = nullptr;
      cudaGraphExec_t executable = nullptr;
      REQUIRE(cudaStreamBeginCapture(s.get(), cudaStreamCaptureModeGlobal) == cudaSuccess);
      step();
      REQUIRE(cudaStreamEndCapture(s.get(), &graph) == cudaSuccess);
      REQUIRE(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
      for (int round = 0; round < 3; ++round) {
        // Another batch each time, in the same place.
        const std::vector<float> batch = law_elements<float>(extents, 10 + static_cast<std::uint64_t>(round));
        backend.upload(batch.data(), static_cast<Index>(batch.size()), x.view().data());
        REQUIRE(cudaGraphLaunch(executable, s.get()) == cudaSuccess);
        eager_step();
        CHECK(same_elements(y.elements(), eager_y.elements()));
        CHECK(same_elements(dx.elements(), eager_dx.elements()));
      }
      CHECK(state_of_layer(layer) == state_of_layer(eager));
      CHECK(layer.num_batches_tracked() == (extents[0] == 0 ? 0 : 4));
      cudaGraphExecDestroy(executable);
      cudaGraphDestroy(graph);
    }
  }
}

TEST_CASE("cuda layer: memory that a graph uses stays where it is, whatever tensors come later", "[cuda]") {
  CudaStream s;
  CudaBackend<float> backend(s.get());
  Layer layer(3, {}, {}, backend);
  Layer::Saved saved;
  std::size_t allocations = 0;
  for (const std::vector<Index>& extents :
       {std::vector<Index>{2, 3, 150, 150}, {1, 3, 4, 4}, {9, 3, 200, 200}, {3, 3, 101, 303}, {100, 3, 1, 1}}) {
    for (const Placement placement : {Placement::rows, Placement::channels_last, Placement::padded}) {
      BackendTensor<CudaBackend<float>, float> x(backend, extents, placement, law_elements<float>(extents, 1));
      BackendTensor<CudaBackend<float>, float> y(backend, extents, placement);
      if (allocations == 0) Step{layer, x, x, y, y, saved}();
      allocations = cuda_emulation::all_allocations();
      Step{layer, x, x, y, y, saved}();
      CHECK(cuda_emulation::all_allocations() == allocations);
    }
  }
}

TEST_CASE("cuda layer: a step that was never run cannot be captured, and says so", "[cuda]") {
  CudaStream s;
  CudaBackend<float> backend(s.get());
  const std::vector<Index> extents{4, 6, 5, 5};
  Layer layer(6, {}, {}, backend);
  BackendTensor<CudaBackend<float>, float> x(backend, extents, Placement::rows, law_elements<float>(extents, 1));
  BackendTensor<CudaBackend<float>, float> y(backend, extents, Placement::rows);
  Layer::Saved saved;
  REQUIRE(cudaStreamBeginCapture(s.get(), cudaStreamCaptureModeGlobal) == cudaSuccess);
  const std::string thrown = thrown_by([&] { layer.forward(x.read(), y.view(), saved); });
  cudaGraph_t graph = nullptr;
  CHECK(cudaStreamEndCapture(s.get(), &graph) == cudaSuccess);
  cudaGraphDestroy(graph);
  CHECK(thrown.find("Error: memory cannot be allocated while a stream is captured") == 0);
  CHECK(layer.num_batches_tracked() == 0);
  layer.forward(x.read(), y.view(), saved);
  CHECK(layer.num_batches_tracked() == 1);
}

// The limit of a kernel is the process's: one that is lowered makes a launch fail that another thread has prepared.
TEST_CASE("cuda backend: a pass in shared memory takes none from those of other threads", "[cuda]") {
  CudaBackend<float> backend;
  const cuda_emulation::ExpectViolations expected;
  for (const Index size : {40000, 30000}) {  // 96 KB in shared memory, then 56
    const std::vector<Index> extents{1, 4, size};
    const BackendTensor<CudaBackend<float>, float> x(backend, extents, Placement::rows,
                                                     law_elements<float>(extents, 1));
    BackendTensor<CudaBackend<float>, float> y(backend, extents, Placement::rows);
    syncbn::Moments<CudaBackend<float>> moments;
    syncbn::Statistics<CudaBackend<float>> statistics;
    normalize_alone(backend, x.read(), 1e-5, moments, statistics, {}, {}, y.view());
  }
  CHECK(expected.texts().empty());
}

TEST_CASE("cuda backend: what the runtime refuses is an exception of the call", "[cuda]") {
  CHECK_THROWS_AS(syncbn::cuda::launch(syncbn::cuda::each_kernel<syncbn_test::detail::AddOneTo>, 1, 4096, 0, nullptr,
                                       syncbn::cuda::EachArguments<syncbn_test::detail::AddOneTo>{0, {nullptr}}),
                  syncbn::CudaError);
  CHECK(cudaGetLastError() == cudaSuccess);
}
