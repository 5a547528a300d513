#include "every_kernel.cuh"

template void syncbn_test::every_kernel(syncbn::BatchNorm2d<syncbn::CudaBackend<float>>&,
                                        syncbn::TensorView<const syncbn::Float16, syncbn::CudaSpace>,
                                        syncbn::TensorView<syncbn::Float16, syncbn::CudaSpace>);
