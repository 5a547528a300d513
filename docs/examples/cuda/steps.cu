// A layer on a CUDA device: a step, and the step as a CUDA graph, beside the same on the CPU.

// [begin include]
#include <syncbn/backends/cuda_backend.cuh>  // for nvcc
#include <syncbn/core.hpp>
// [end include]

#include "common.hpp"
#include "on_cpu.hpp"

using example::channels;

int main() {
  if (example::devices() == 0) return 77;
  example::Activations x_values(1), dy_values(2), y_values(0), dx_values(0), expected_y(0), expected_dx(0);
  const auto x = x_values.on_device(), dy = dy_values.on_device(), y = y_values.on_device(), dx = dx_values.on_device();
  cudaStream_t stream = nullptr;
  example::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  bool ok = true;
  {
    // [begin step]
    using Backend = syncbn::CudaBackend<float>;  // f16, bf16 and f32 tensors, float parameters; <double>: f64 too
    syncbn::BatchNorm<2, Backend> bn(channels, {}, {}, Backend(stream));
    syncbn::BatchNorm<2, Backend>::Saved saved;

    bn.forward(x, y, saved);  // TensorView<float, CudaSpace>; kernels in your stream; returns at once
    bn.backward(dy, x, saved, dx);
    // [end step]

    cudaGraph_t graph = nullptr;
    // [begin capture]
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
    bn.forward(x, y, saved);
    bn.backward(dy, x, saved, dx);
    cudaStreamEndCapture(stream, &graph);
    // [end capture]
    cudaGraphExec_t launchable = nullptr;
    example::check(cudaGraphInstantiate(&launchable, graph, 0));
    for (int i = 0; i < 2; ++i) example::check(cudaGraphLaunch(launchable, stream));
    example::check(cudaStreamSynchronize(stream));
    example::check(cudaGraphExecDestroy(launchable));
    example::check(cudaGraphDestroy(graph));

    example::step_on_cpu(x_values.on_host(), dy_values.on_host(), expected_y.on_host(), expected_dx.on_host());
    ok &= example::agree("y", y_values.download(), expected_y.host());
    ok &= example::agree("dx", dx_values.download(), expected_dx.host());
    ok &= example::holds("three batches were counted", bn.num_batches_tracked() == 3);
  }
  example::check(cudaStreamDestroy(stream));
  return ok ? 0 : 1;
}
