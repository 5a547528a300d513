// The other half of on_devices.cpp: with this in a program, its modules take tensors of CUDA devices.
// [begin]
#include <syncbn/interop/torch_cuda.cuh>
// [end]
