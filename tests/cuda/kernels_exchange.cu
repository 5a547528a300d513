#include <syncbn/backends/cuda_backend.cuh>
#include <syncbn/backends/nccl_communicator.hpp>
#include <syncbn/core.hpp>

// What an exchange with deferred errors puts into a stream, besides sums.

using Device = syncbn::CudaBackend<float>;
using LateExchange = syncbn::Exchange<syncbn::NcclCommunicator>;
using DeviceMoments = syncbn::Moments<Device>;
using DeviceSums = syncbn::GradientSums<Device>;

template void syncbn::start_exchange(LateExchange&, Device&, const DeviceMoments&);
template void syncbn::start_exchange(LateExchange&, Device&, const DeviceSums&);
template void syncbn::finish_exchange(LateExchange&, Device&, const DeviceMoments&, DeviceMoments&);
template void syncbn::finish_exchange(LateExchange&, Device&, DeviceSums&, DeviceSums&);
