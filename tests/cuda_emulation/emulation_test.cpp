// The emulator itself: kernels that are right give the right results in every order, and every mistake that it claims to
// see is made once.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "devices.hpp"
#include "memory.hpp"
#include "options.hpp"
#include "streams.hpp"
#include "support/catch.hpp"

CUDA_EMULATION_DYNAMIC_SHARED(emulated, dynamic_shared)

namespace emulated {

extern __shared__ __align__(16) unsigned char dynamic_shared[];

constexpr unsigned every_lane = 0xffffffffU;

__device__ float warp_sum(float value) {
  for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(every_lane, value, lanes);
  return value;
}

template <bool has_barrier>
__global__ void sum_kernel(const float* x, int n, float* sums) {
  __shared__ float of_warps[32];
  float sum = 0;
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < n;
       i += static_cast<int>(gridDim.x * blockDim.x)) {
    sum += __ldg(x + i);
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = sum;
  if (has_barrier) __syncthreads();
  if (threadIdx.x < 32) {
    sum = warp_sum(threadIdx.x < blockDim.x / 32 ? of_warps[threadIdx.x] : 0.0F);
    if (threadIdx.x == 0) __stcs(sums + blockIdx.x, sum);
  }
}

__global__ void dynamic_kernel(float* out) {
  auto* const values = reinterpret_cast<float*>(dynamic_shared);
  const float before = values[threadIdx.x];
  values[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = values[blockDim.x - 1 - threadIdx.x] + (before != before ? 0.5F : 0.0F);
}
__global__ void hungry_kernel() {}

// The block that finishes last adds up what the others have written.
__global__ void last_block_kernel(unsigned* arrived, unsigned* parts, unsigned* total) {
  __shared__ bool is_last;
  if (threadIdx.x == 0) {
    parts[blockIdx.x] = blockIdx.x + 1;
    __threadfence();
    is_last = atomicInc(arrived, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (!is_last || threadIdx.x != 0) return;
  *total = 0;
  for (unsigned b = 0; b < gridDim.x; ++b) *total += parts[b];
}

__global__ void add_one_kernel(int* counter) { ++*counter; }

__global__ void copy_kernel(const float4* from, float4* to, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) __stcs(to + i, __ldcs(from + i));
}
__global__ void strided_kernel(const float* from, float* to, int stride) {
  to[threadIdx.x] = __ldg(from + static_cast<int>(threadIdx.x) * stride);
}
__global__ void misaligned_kernel(const float* from, float4* to) {
  *to = __ldg(reinterpret_cast<const float4*>(from + 1));
}

// ---- Mistakes --------------------------------------------------------------------------------------------------------

__global__ void some_meet_kernel() {
  if (threadIdx.x < 16) __syncthreads();
}
__global__ void two_barriers_kernel() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
__global__ void late_barrier_kernel() {
  if (threadIdx.x == 7) return;
  __syncthreads();
}
__global__ void foreign_mask_kernel() { __shfl_sync(0xfffffffeU, 1, 1); }
__global__ void exited_lane_kernel() {
  if (threadIdx.x == 3) return;
  __syncwarp();
}
__global__ void leaving_lane_kernel() {
  if (threadIdx.x == 31) return;
  __ballot_sync(every_lane, 1);
}
__global__ void two_masks_kernel() { __syncwarp(threadIdx.x < 16 ? every_lane : 0xffff0000U); }
__global__ void two_operations_kernel() {
  if (threadIdx.x % 2 == 0) {
    __any_sync(every_lane, 1);
  } else {
    __all_sync(every_lane, 1);
  }
}
__global__ void deadlock_kernel() {
  if (threadIdx.x == 0) {
    __syncwarp();
  } else {
    __syncthreads();
  }
}
__global__ void shuffle_from_nowhere_kernel(float* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0x0000ffffU, 1.0F, 20);
}

}  // namespace emulated

namespace {

using cuda_emulation::ExpectViolations;
using cuda_emulation::Options;
using cuda_emulation::Order;

bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

// Leaves the options as they were.
class WithOptions {
 public:
  explicit WithOptions(const Options& o) : before_(cuda_emulation::options()) { cuda_emulation::options() = o; }
  ~WithOptions() { cuda_emulation::options() = before_; }
  WithOptions(const WithOptions&) = delete;
  WithOptions& operator=(const WithOptions&) = delete;

 private:
  Options before_;
};

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t n) : n_(n) {
    REQUIRE(cudaMalloc(reinterpret_cast<void**>(&p_), n * sizeof(T)) == 0);
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    REQUIRE(cudaMemcpy(p_, values.data(), n_ * sizeof(T), cudaMemcpyHostToDevice) == cudaSuccess);
  }
  ~DeviceArray() { cudaFree(p_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* get() const { return p_; }
  std::vector<T> values() const {
    std::vector<T> result(n_);
    REQUIRE(cudaMemcpy(result.data(), p_, n_ * sizeof(T), cudaMemcpyDeviceToHost) == cudaSuccess);
    return result;
  }

 private:
  T* p_ = nullptr;
  std::size_t n_;
};

struct Stream {
  explicit Stream(unsigned flags = cudaStreamNonBlocking) {
    REQUIRE(cudaStreamCreateWithFlags(&stream, flags) == cudaSuccess);
  }
  ~Stream() { cudaStreamDestroy(stream); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t stream = nullptr;
};
struct Event {
  Event() { REQUIRE(cudaEventCreateWithFlags(&event, cudaEventDisableTiming) == cudaSuccess); }
  ~Event() { cudaEventDestroy(event); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t event = nullptr;
};

Options deferred(int devices = 2) { return {Order::ascending, 1, true, 1, devices, false}; }
Options asynchronous() { return {Order::ascending, 1, false, 1, 2, true}; }

// Puts `++counter` into a stream, or what waits for a gate.
void put_count(cudaStream_t stream, std::atomic<int>& counter) {
  const auto add = [](void* p) { ++*static_cast<std::atomic<int>*>(p); };
  REQUIRE(cudaLaunchHostFunc(stream, add, &counter) == cudaSuccess);
}
void put_gate(cudaStream_t stream, std::atomic<bool>& open) {
  const auto wait = [](void* p) {
    while (!*static_cast<std::atomic<bool>*>(p)) std::this_thread::yield();
  };
  REQUIRE(cudaLaunchHostFunc(stream, wait, &open) == cudaSuccess);
}

cudaLaunchConfig_t shape(unsigned blocks, unsigned threads, std::size_t shared = 0, cudaStream_t stream = nullptr) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  return config;
}

// What a kernel that breaks a rule is told. The device is well again afterwards.
template <class... Parameters, class... Arguments>
std::string violations_of(unsigned threads, void (*kernel)(Parameters...), Arguments... arguments) {
  const ExpectViolations expected;
  const auto config = shape(1, threads);
  cudaLaunchKernelEx(&config, kernel, arguments...);
  CHECK(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
  cuda_emulation::reset_faults();
  return expected.texts();
}

float sum_of(const std::vector<float>& values) {
  float sum = 0;
  for (const float v : values) sum += v;
  return sum;
}

template <bool has_barrier>
float emulated_sum() {
  std::vector<float> values(5000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 17);
  const DeviceArray<float> x(values);
  const DeviceArray<float> sums(7);
  const auto config = shape(7, 256);
  REQUIRE(cudaLaunchKernelEx(&config, emulated::sum_kernel<has_barrier>, x.get(), 5000, sums.get()) == cudaSuccess);
  return sum_of(sums.values());
}

}  // namespace

TEST_CASE("a sum by shuffles and a barrier is right in every order of threads and blocks") {
  std::vector<float> values(5000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 17);
  for (const Order order : {Order::ascending, Order::descending, Order::shuffled}) {
    for (const unsigned workers : {1U, 3U}) {
      const WithOptions with({order, 5, false, workers, 2});
      CHECK(emulated_sum<true>() == sum_of(values));
    }
  }
}

#if !defined(CUDA_EMULATION_TSAN)  // which reports the race: planted_mistakes.cpp
TEST_CASE("a missing barrier shows in some order") {
  int wrong = 0;
  for (const Order order : {Order::ascending, Order::descending, Order::shuffled}) {
    const WithOptions with({order, 5, false, 1, 2});
    if (emulated_sum<false>() != emulated_sum<true>()) ++wrong;
  }
  CHECK(wrong > 0);
}
#endif

TEST_CASE("dynamic shared memory is NaN at first and shared by a block") {
  const DeviceArray<float> out(64);
  const auto config = shape(1, 64, 64 * sizeof(float));
  REQUIRE(cudaLaunchKernelEx(&config, emulated::dynamic_kernel, out.get()) == cudaSuccess);
  const std::vector<float> values = out.values();
  for (std::size_t i = 0; i < 64; ++i) CHECK(values[i] == static_cast<float>(63 - i) + 0.5F);
}

TEST_CASE("the last block sees what the others wrote") {
  const WithOptions with({Order::shuffled, 3, false, 3, 2});
  const DeviceArray<unsigned> arrived(std::vector<unsigned>{0});
  const DeviceArray<unsigned> parts(10);
  const DeviceArray<unsigned> total(1);
  const auto config = shape(10, 32);
  REQUIRE(cudaLaunchKernelEx(&config, emulated::last_block_kernel, arrived.get(), parts.get(), total.get()) == 0);
  CHECK(total.values()[0] == 55);
  CHECK(arrived.values()[0] == 0);
}

TEST_CASE("mistakes with barriers are reported") {
  CHECK(has(violations_of(32, emulated::some_meet_kernel), "exits while others wait at __syncthreads"));
  CHECK(has(violations_of(64, emulated::two_barriers_kernel), "different calls of __syncthreads"));
  const WithOptions with({Order::descending, 1, false, 1, 2});
  {
    const std::string text = violations_of(32, emulated::late_barrier_kernel);
    CHECK((has(text, "exits while others wait") || has(text, "after threads of the block have exited")));
  }
}

TEST_CASE("mistakes with collectives of a warp are reported") {
  CHECK(has(violations_of(32, emulated::foreign_mask_kernel), "without being in the mask"));
  CHECK(has(violations_of(32, emulated::exited_lane_kernel), "a lane exits that others wait for"));
  CHECK(has(violations_of(32, emulated::leaving_lane_kernel), "a lane exits that others wait for"));
  CHECK(has(violations_of(32, emulated::two_masks_kernel), "different masks or operations"));
  CHECK(has(violations_of(32, emulated::two_operations_kernel), "different masks or operations"));
  const WithOptions with({Order::descending, 1, false, 1, 2});
  CHECK(has(violations_of(32, emulated::leaving_lane_kernel), "names a lane that has exited"));
}

TEST_CASE("a deadlock names threads and where they wait") {
  {
    const std::string text = violations_of(32, emulated::deadlock_kernel);
    CHECK((has(text, "deadlock") && has(text, "in a collective of its warp") && has(text, "at __syncthreads")));
  }
}

TEST_CASE("a misaligned vector is reported") {
  const DeviceArray<float> x(8);
  const DeviceArray<float4> out(1);
  CHECK(has(violations_of(1, emulated::misaligned_kernel, x.get(), out.get()), "not a multiple of 16 bytes"));
}

TEST_CASE("a shuffle from a lane that does not take part gives NaN") {
  const DeviceArray<float> out(16);
  const auto config = shape(1, 32);
  REQUIRE(cudaLaunchKernelEx(&config, emulated::shuffle_from_nowhere_kernel, out.get()) == cudaSuccess);
  for (const float v : out.values()) CHECK(v != v);
}

TEST_CASE("a fault stays with the device") {
  violations_of(32, emulated::some_meet_kernel);
  {
    const ExpectViolations expected;
    const auto config = shape(1, 32);
    cudaLaunchKernelEx(&config, emulated::some_meet_kernel);
    cudaDeviceSynchronize();
    CHECK(cudaLaunchKernelEx(&config, emulated::two_barriers_kernel) == cudaErrorLaunchFailure);
  }
  cuda_emulation::reset_faults();
}

TEST_CASE("launches that no device takes are refused") {
  int* const nothing = nullptr;
  for (const auto& config : {shape(0, 32), shape(1, 0), shape(1, 1025)}) {
    CHECK(cudaLaunchKernelEx(&config, emulated::add_one_kernel, nothing) == cudaErrorInvalidConfiguration);
    CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration);
  }
  const DeviceArray<float> out(64);
  const auto large = shape(1, 64, std::size_t{100} << 10);
  CHECK(cudaLaunchKernelEx(&large, emulated::dynamic_kernel, out.get()) == cudaErrorInvalidValue);
  REQUIRE(cudaFuncSetAttribute(emulated::dynamic_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 100 << 10) ==
          cudaSuccess);
  CHECK(cudaLaunchKernelEx(&large, emulated::dynamic_kernel, out.get()) == cudaSuccess);
  CHECK(cudaFuncSetAttribute(emulated::dynamic_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 300 << 10) ==
        cudaErrorInvalidValue);
}

TEST_CASE("a kernel that is allowed less shared memory than before is noticed") {
  const auto allow = [](int bytes) {
    return cudaFuncSetAttribute(emulated::hungry_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  };
  const ExpectViolations expected;
  REQUIRE(allow(100 << 10) == cudaSuccess);
  REQUIRE(allow(100 << 10) == cudaSuccess);
  CHECK(expected.texts().empty());
  REQUIRE(allow(60 << 10) == cudaSuccess);
  CHECK(has(expected.texts(), "less shared memory than before"));
}

TEST_CASE("deferred streams do nothing before somebody waits") {
  const WithOptions with({Order::ascending, 1, true, 1, 2});
  int host = 0;
  const DeviceArray<int> counter(std::vector<int>{0});
  cudaStream_t first = nullptr;
  cudaStream_t second = nullptr;
  REQUIRE(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking) == cudaSuccess);
  REQUIRE(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking) == cudaSuccess);
  cudaEvent_t event = nullptr;
  REQUIRE(cudaEventCreateWithFlags(&event, cudaEventDisableTiming) == cudaSuccess);

  const auto config = shape(1, 1, 0, first);
  REQUIRE(cudaLaunchKernelEx(&config, emulated::add_one_kernel, counter.get()) == cudaSuccess);
  REQUIRE(cudaEventRecord(event, first) == cudaSuccess);
  REQUIRE(cudaLaunchKernelEx(&config, emulated::add_one_kernel, counter.get()) == cudaSuccess);
  CHECK(cudaStreamQuery(first) == cudaErrorNotReady);
  CHECK(cudaEventQuery(event) == cudaErrorNotReady);

  // What waits for the event sees what was before it, and nothing else.
  REQUIRE(cudaStreamWaitEvent(second, event, 0) == cudaSuccess);
  REQUIRE(cudaMemcpyAsync(&host, counter.get(), sizeof host, cudaMemcpyDeviceToHost, second) == cudaSuccess);
  CHECK(host == 0);
  const long waits = cuda_emulation::waits();
  REQUIRE(cudaStreamSynchronize(second) == cudaSuccess);
  CHECK(cuda_emulation::waits() == waits + 1);
  CHECK(host == 1);
  CHECK(cudaEventQuery(event) == cudaSuccess);
  REQUIRE(cudaStreamSynchronize(first) == cudaSuccess);
  CHECK(counter.values()[0] == 2);
  cudaEventDestroy(event);
  cudaStreamDestroy(first);
  cudaStreamDestroy(second);
}

TEST_CASE("a captured graph replays, and waiting ends a capture") {
  const DeviceArray<int> counter(std::vector<int>{0});
  cudaStream_t stream = nullptr;
  REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  const auto config = shape(1, 1, 0, stream);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  REQUIRE(cudaLaunchKernelEx(&config, emulated::add_one_kernel, counter.get()) == cudaSuccess);
  REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  CHECK(counter.values()[0] == 0);
  REQUIRE(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
  for (int i = 0; i < 3; ++i) REQUIRE(cudaGraphLaunch(executable, stream) == cudaSuccess);
  REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
  CHECK(counter.values()[0] == 3);
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);

  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  CHECK(cudaStreamSynchronize(stream) == cudaErrorStreamCaptureUnsupported);
  void* p = nullptr;
  CHECK(cudaMallocAsync(&p, 16, stream) == cudaErrorStreamCaptureUnsupported);
  CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);
  cudaGetLastError();
  cudaStreamDestroy(stream);
}

TEST_CASE("waiting for a device waits for its streams, and for no other's") {
  const WithOptions with(deferred());
  std::atomic<int> of_stream{0}, of_default{0};
  int device_of_work = -1;
  const cuda_emulation::OnDevice one(1);
  const Stream stream;
  put_count(stream.stream, of_stream);
  put_count(nullptr, of_default);
  {
    const cuda_emulation::OnDevice zero(0);
    REQUIRE(cuda_emulation::submit(stream.stream, [&] {
              device_of_work = cuda_emulation::current_device();
              return cudaSuccess;
            }) == cudaSuccess);
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(nullptr) == cudaSuccess);
    CHECK(of_stream + of_default == 0);
    REQUIRE(cudaStreamSynchronize(stream.stream) == cudaSuccess);  // whichever device is current
    CHECK(of_stream == 1);
    CHECK(cuda_emulation::current_device() == 0);
  }
  CHECK(device_of_work == 1);
  CHECK(of_default == 0);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  CHECK(of_default == 1);
  int device = -1;
  CHECK(cudaStreamGetDevice(stream.stream, &device) == cudaSuccess);
  CHECK(device == 1);
}

TEST_CASE("the default stream and blocking ones of its device wait for each other") {
  for (const Options& o : {deferred(), asynchronous()}) {
    const WithOptions with(o);
    std::atomic<bool> open{false};
    std::atomic<int> others{0};
    std::vector<int> order;  // a race if work is not ordered
    const Stream free;
    const Stream blocking(cudaStreamDefault);
    cudaSetDevice(1);
    const Stream elsewhere(cudaStreamDefault);
    cudaSetDevice(0);
    const auto note = [&](cudaStream_t stream, int number) {
      REQUIRE(cuda_emulation::submit(stream, [&order, number] {
                order.push_back(number);
                return cudaSuccess;
              }) == cudaSuccess);
    };
    put_gate(blocking.stream, open);
    note(blocking.stream, 0);
    note(nullptr, 1);
    note(blocking.stream, 2);
    put_count(free.stream, others);
    put_count(elsewhere.stream, others);
    REQUIRE(cudaStreamSynchronize(free.stream) == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(elsewhere.stream) == cudaSuccess);
    CHECK(others == 2);  // while the gate is shut
    open = true;
    REQUIRE(cudaStreamSynchronize(blocking.stream) == cudaSuccess);
    CHECK(order == std::vector<int>{0, 1, 2});
  }
}

TEST_CASE("the default stream does not wait for streams that do not block") {
  const WithOptions with(asynchronous());
  std::atomic<bool> open{false};
  std::atomic<int> counter{0};
  const Stream free;
  put_gate(free.stream, open);
  put_count(nullptr, counter);
  for (int i = 0; i < 10'000 && counter == 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  CHECK(counter == 1);
  open = true;
}

TEST_CASE("each thread has a default stream of its own") {
  const WithOptions with(deferred());
  std::atomic<int> counter{0};
  put_count(cudaStreamPerThread, counter);
  std::thread([] { cudaStreamSynchronize(cudaStreamPerThread); }).join();
  CHECK(counter == 0);
  std::thread([&] { put_count(cudaStreamPerThread, counter); }).join();
  REQUIRE(cudaStreamSynchronize(cudaStreamPerThread) == cudaSuccess);
  CHECK(counter == 1);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  CHECK(counter == 2);
}

TEST_CASE("asynchronous streams work in the background, in order, and the host goes on") {
  const WithOptions with(asynchronous());
  std::atomic<bool> open{false};
  const DeviceArray<int> counter(std::vector<int>{0});
  const Stream first, second;
  const Event event;
  const long waits = cuda_emulation::waits();
  put_gate(first.stream, open);
  const auto config = shape(1, 1, 0, first.stream);
  REQUIRE(cudaLaunchKernelEx(&config, emulated::add_one_kernel, counter.get()) == cudaSuccess);
  REQUIRE(cudaEventRecord(event.event, first.stream) == cudaSuccess);
  REQUIRE(cudaStreamWaitEvent(second.stream, event.event, 0) == cudaSuccess);
  const auto other = shape(1, 1, 0, second.stream);
  REQUIRE(cudaLaunchKernelEx(&other, emulated::add_one_kernel, counter.get()) == cudaSuccess);
  CHECK(cudaStreamQuery(first.stream) == cudaErrorNotReady);
  CHECK(cudaStreamQuery(second.stream) == cudaErrorNotReady);
  CHECK(cudaEventQuery(event.event) == cudaErrorNotReady);

  open = true;
  while (cudaStreamQuery(second.stream) == cudaErrorNotReady) std::this_thread::yield();
  CHECK(cudaEventQuery(event.event) == cudaSuccess);
  CHECK(cuda_emulation::waits() == waits);
  CHECK(*counter.get() == 2);
  REQUIRE(cudaEventSynchronize(event.event) == cudaSuccess);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  CHECK(cuda_emulation::waits() == waits + 2);
}

TEST_CASE("what is in a stream is done though the stream is destroyed") {
  for (const Options& o : {deferred(), asynchronous()}) {
    const WithOptions with(o);
    std::atomic<int> counter{0};
    std::atomic<bool> open{false};
    const Stream other;
    std::thread opens([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      open = true;
    });
    {
      const Stream stream;
      const Event event;
      put_gate(stream.stream, open);
      for (int i = 0; i < 100; ++i) put_count(stream.stream, counter);
      REQUIRE(cudaEventRecord(event.event, stream.stream) == cudaSuccess);
      REQUIRE(cudaStreamWaitEvent(other.stream, event.event, 0) == cudaSuccess);
    }
    CHECK(counter == 100);
    REQUIRE(cudaStreamSynchronize(other.stream) == cudaSuccess);
    opens.join();
  }
}

TEST_CASE("many threads may use the streams of a device") {
  const WithOptions with(asynchronous());
  const DeviceArray<int> counter(std::vector<int>{0});
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      const auto config = shape(1, 1);
      for (int i = 0; i < 50; ++i) {
        cudaLaunchKernelEx(&config, emulated::add_one_kernel, counter.get());
        if (i % 10 == 0) cudaDeviceSynchronize();
      }
    });
  }
  for (std::thread& t : threads) t.join();
  CHECK(counter.values()[0] == 200);
}

TEST_CASE("a fault is one device's") {
  const WithOptions with(asynchronous());
  const cuda_emulation::OnDevice one(1);
  const auto fail = [] { return cudaErrorLaunchFailure; };
  REQUIRE(cuda_emulation::submit(nullptr, fail) == cudaSuccess);
  CHECK(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
  CHECK(cuda_emulation::submit(nullptr, fail) == cudaErrorLaunchFailure);
  const cuda_emulation::OnDevice zero(0);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  cuda_emulation::reset_faults();
}

TEST_CASE("mistakes with streams are reported") {
  const ExpectViolations expected;
  for (const Options& o : {Options{}, asynchronous()}) {
    const WithOptions with(o);
    const Stream stream;
    static cudaError_t of_call = cudaSuccess;
    const auto call = [](void*) { of_call = cudaDeviceSynchronize(); };
    REQUIRE(cudaLaunchHostFunc(stream.stream, call, nullptr) == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(stream.stream) == cudaSuccess);
    CHECK(of_call == cudaErrorNotPermitted);
  }
  CHECK(has(expected.texts(), "a host function in a stream calls the runtime"));

  const auto waits_for_itself = [] { return cudaStreamSynchronize(nullptr); };
  REQUIRE(cuda_emulation::submit(nullptr, waits_for_itself) == cudaSuccess);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  CHECK(has(expected.texts(), "work of a stream waits for that stream"));

  cudaStream_t stream = nullptr;
  REQUIRE(cudaStreamCreate(&stream) == cudaSuccess);
  REQUIRE(cudaStreamDestroy(stream) == cudaSuccess);
  CHECK(cudaStreamDestroy(stream) == cudaErrorInvalidResourceHandle);
  CHECK(has(expected.texts(), "destroyed that does not exist"));
  cudaMemsetAsync(nullptr, 0, 0, stream);
  CHECK(has(expected.texts(), "put into a stream that was destroyed"));
  cudaGetLastError();
}

TEST_CASE("streams that take part in a capture join it by an event, and have to come back") {
  const Stream origin, branch;
  const Event before, fork, join;
  std::atomic<int> counter{0};
  REQUIRE(cudaEventRecord(before.event, branch.stream) == cudaSuccess);
  for (const bool joins : {false, true}) {
    REQUIRE(cudaStreamBeginCapture(origin.stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    REQUIRE(cudaEventRecord(fork.event, origin.stream) == cudaSuccess);
    CHECK(cudaEventQuery(fork.event) == cudaErrorCapturedEvent);
    REQUIRE(cudaStreamWaitEvent(branch.stream, fork.event, 0) == cudaSuccess);
    put_count(branch.stream, counter);
    REQUIRE(cudaEventRecord(join.event, branch.stream) == cudaSuccess);
    if (joins) REQUIRE(cudaStreamWaitEvent(origin.stream, join.event, 0) == cudaSuccess);
    cudaGraph_t graph = nullptr;
    CHECK(cudaStreamEndCapture(origin.stream, &graph) == (joins ? cudaSuccess : cudaErrorStreamCaptureUnjoined));
    CHECK((graph != nullptr) == joins);
    cudaGraphDestroy(graph);
    CHECK(cudaStreamWaitEvent(origin.stream, fork.event, 0) == cudaErrorCapturedEvent);
  }
  CHECK(counter == 0);

  REQUIRE(cudaStreamBeginCapture(origin.stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  CHECK(cudaStreamWaitEvent(origin.stream, before.event, 0) == cudaErrorStreamCaptureIsolation);
  cudaGraph_t graph = nullptr;
  CHECK(cudaStreamEndCapture(origin.stream, &graph) == cudaErrorStreamCaptureInvalidated);
  cudaGetLastError();
}

TEST_CASE("the mode of captures is each thread's") {
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  REQUIRE(cudaThreadExchangeStreamCaptureMode(&mode) == cudaSuccess);
  CHECK(mode == cudaStreamCaptureModeGlobal);
  REQUIRE(cudaThreadExchangeStreamCaptureMode(&mode) == cudaSuccess);
  CHECK(mode == cudaStreamCaptureModeRelaxed);
}

TEST_CASE("device memory is NaN, released once, and counted") {
  const std::size_t live = cuda_emulation::live_allocations();
  void* p = nullptr;
  REQUIRE(cudaMalloc(&p, 64) == cudaSuccess);
  CHECK(cuda_emulation::live_allocations() == live + 1);
  float value = 0;
  REQUIRE(cudaMemcpy(&value, p, sizeof value, cudaMemcpyDeviceToHost) == cudaSuccess);
  CHECK(value != value);
  cudaPointerAttributes attributes{};
  REQUIRE(cudaPointerGetAttributes(&attributes, static_cast<char*>(p) + 60) == cudaSuccess);
  CHECK(attributes.type == cudaMemoryTypeDevice);
  REQUIRE(cudaPointerGetAttributes(&attributes, &value) == cudaSuccess);
  CHECK(attributes.type == cudaMemoryTypeUnregistered);
  REQUIRE(cudaFree(p) == cudaSuccess);
  CHECK(cuda_emulation::live_allocations() == live);
  const ExpectViolations expected;
  CHECK(cudaFree(p) == cudaErrorInvalidValue);
  CHECK(has(expected.texts(), "not allocated so"));
}

TEST_CASE("global loads and stores are counted, in bytes and in sectors of a request") {
  const DeviceArray<float4> from(256);
  const DeviceArray<float4> to(256);
  const auto config = shape(2, 128);
  {
    const cuda_emulation::CountTraffic count;
    REQUIRE(cudaLaunchKernelEx(&config, emulated::copy_kernel, from.get(), to.get(), 256) == cudaSuccess);
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    const cuda_emulation::Traffic traffic = count.traffic();
    CHECK(traffic.loaded_bytes == 4096);
    CHECK(traffic.stored_bytes == 4096);
    CHECK(traffic.load_requests == 8);
    CHECK(traffic.load_sectors == 128);
    CHECK(traffic.store_sectors == 128);
  }
  const DeviceArray<float> spread(32 * 8);
  const DeviceArray<float> dense(32);
  const auto warp = shape(1, 32);
  const cuda_emulation::CountTraffic count(spread.get(), 32 * 8 * sizeof(float));
  REQUIRE(cudaLaunchKernelEx(&warp, emulated::strided_kernel, spread.get(), dense.get(), 8) == cudaSuccess);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  const cuda_emulation::Traffic traffic = count.traffic();
  CHECK(traffic.loaded_bytes == 128);
  CHECK(traffic.load_requests == 1);
  CHECK(traffic.load_sectors == 32);
  CHECK(traffic.stored_bytes == 0);
}

TEST_CASE("more memory than there is cannot be had") {
  void* p = nullptr;
  CHECK(cudaMalloc(&p, std::size_t{1} << 50) == cudaErrorMemoryAllocation);
  CHECK(p == nullptr);
  CHECK(cudaMallocAsync(&p, std::size_t{1} << 50, nullptr) == cudaErrorMemoryAllocation);
  CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
}

TEST_CASE("the upper half of a product") {
  CHECK(__umul64hi(~0ULL, ~0ULL) == ~0ULL - 1);
  CHECK(__umul64hi(1ULL << 63, 6) == 3);
}
