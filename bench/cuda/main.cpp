// The kernels for CUDA devices, beside cuDNN, LibTorch and the limits of memory.

#include <algorithm>
#include <array>
#include <cstdio>
#include <cuda_runtime.h>
#include <string>

#include <benchmark/benchmark.h>

#include <syncbn/backends/detail/cuda_check.hpp>

#include "contenders.hpp"
#include "device_bytes.hpp"
#include "harness.hpp"
#include "shapes_cuda.hpp"

namespace bench {
namespace {

using syncbn::cuda::check;

class TimedEvent {
 public:
  TimedEvent() { check(cudaEventCreate(&event_), "cudaEventCreate"); }
  TimedEvent(const TimedEvent&) = delete;
  TimedEvent& operator=(const TimedEvent&) = delete;
  ~TimedEvent() { static_cast<void>(cudaEventDestroy(event_)); }

  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

class Device final : public Machine {
 public:
  Device() {
    int device = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    name_ = properties.name;
    rubbish_.reset(std::max(fewest_bytes, 4 * static_cast<std::size_t>(properties.l2CacheSize)));
  }

  const std::string& name() const { return name_; }

  std::byte* room(std::size_t which, std::size_t bytes) override {
    if (memory_[which].size() < bytes) {
      memory_[which].reset(bytes);
    } else {
      memory_[which].clear();
    }
    return memory_[which].data();
  }
  void write(const std::byte* from, std::size_t bytes, std::byte* to) override {
    check(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  void read(const std::byte* from, std::size_t bytes, std::byte* to) override {
    check(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
  }
  bool keeps_caches() const override { return false; }
  // The time that the device is busy with a call, tensors being in memory: before each, something else is read into its
  // cache. That takes long enough for the host to have put the call into the stream.
  double seconds_of(const std::function<void()>& call, int calls) override {
    double milliseconds = 0;
    for (int i = 0; i < calls; ++i) {
      read_cuda(rubbish_.data(), rubbish_.size());
      check(cudaEventRecord(begin_.get(), nullptr), "cudaEventRecord");
      call();
      check(cudaEventRecord(end_.get(), nullptr), "cudaEventRecord");
      check(cudaEventSynchronize(end_.get()), "cudaEventSynchronize");
      float of_call = 0;
      check(cudaEventElapsedTime(&of_call, begin_.get(), end_.get()), "cudaEventElapsedTime");
      milliseconds += static_cast<double>(of_call);
    }
    return milliseconds / 1000 / calls;
  }

 private:
  static constexpr std::size_t fewest_bytes = std::size_t{256} << 20;

  std::string name_;
  DeviceBytes rubbish_;
  std::array<DeviceBytes, 3> memory_;
  TimedEvent begin_, end_;
};

std::vector<Contender> all_contenders() {
  std::vector<Contender> all = contenders_syncbn_cuda();
  const auto add = [&](std::vector<Contender> more) { all.insert(all.end(), more.begin(), more.end()); };
#if BENCH_CUDNN
  add(contenders_cudnn());
#endif
#if BENCH_TORCH
  add(contenders_torch());
#endif
  add(limits_cuda());
  return all;
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::fputs("skipped: there is no CUDA device\n", stderr);
    return 77;
  }
  benchmark::Initialize(&argc, argv);
  bench::Device device;
  benchmark::AddCustomContext("device", device.name());
  benchmark::AddCustomContext("peers", BENCH_PEERS);
  benchmark::AddCustomContext("compiler", __VERSION__);
  return bench::run(argc, argv, device, bench::all_contenders(), bench::cases_cuda);
}
