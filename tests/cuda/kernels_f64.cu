#include "every_kernel.cuh"

template void syncbn_test::every_kernel(syncbn::BatchNorm2d<syncbn::CudaBackend<double>>&,
                                        syncbn::TensorView<const double, syncbn::CudaSpace>,
                                        syncbn::TensorView<double, syncbn::CudaSpace>);
template void syncbn_test::every_kernel(syncbn::BatchNorm2d<syncbn::CudaBackend<double>>&,
                                        syncbn::TensorView<const float, syncbn::CudaSpace>,
                                        syncbn::TensorView<float, syncbn::CudaSpace>);
template void syncbn_test::every_kernel(syncbn::BatchNorm2d<syncbn::CudaBackend<double>>&,
                                        syncbn::TensorView<const syncbn::Float16, syncbn::CudaSpace>,
                                        syncbn::TensorView<syncbn::Float16, syncbn::CudaSpace>);
template void syncbn_test::every_kernel(syncbn::BatchNorm2d<syncbn::CudaBackend<double>>&,
                                        syncbn::TensorView<const syncbn::BFloat16, syncbn::CudaSpace>,
                                        syncbn::TensorView<syncbn::BFloat16, syncbn::CudaSpace>);
