#include "every_kernel.cuh"

template void syncbn_test::every_kernel(syncbn::BatchNorm2d<syncbn::CudaBackend<float>>&,
                                        syncbn::TensorView<const float, syncbn::CudaSpace>,
                                        syncbn::TensorView<float, syncbn::CudaSpace>);
