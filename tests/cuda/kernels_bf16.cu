#include "every_kernel.cuh"

template void syncbn_test::every_kernel(syncbn::BatchNorm2d<syncbn::CudaBackend<float>>&,
                                        syncbn::TensorView<const syncbn::BFloat16, syncbn::CudaSpace>,
                                        syncbn::TensorView<syncbn::BFloat16, syncbn::CudaSpace>);
