#include <cstddef>
#include <utility>

#include <syncbn/backends/cuda_backend.cuh>
#include <syncbn/backends/detail/cuda_handles.hpp>

#include "device_norm.hpp"
#include "timed_communicator.hpp"

namespace digits {

template <class T, class Communicator>
struct DeviceNorm<T, Communicator>::OfDevice {
  using Backend = syncbn::CudaBackend<T>;
  using Layer = syncbn::BatchNorm<2, Backend, Communicator>;
  using Values = syncbn::CudaBuffer<T>;
  using View = syncbn::TensorView<T, syncbn::CudaSpace>;

  OfDevice(Index channels, const syncbn::BatchNormOptions& options, const Communicator& communicator)
      : layer(channels, options, communicator, Backend(stream.get())) {}

  // Room for a tensor of the shape of `maps`.
  View room(const FeatureMaps<T>& maps, Values& values) {
    layer.backend().make_room(values, maps.values.size());
    return {values.data(), {maps.samples, maps.channels, maps.height, maps.width}};
  }
  syncbn::TensorView<const T, syncbn::CudaSpace> upload(const FeatureMaps<T>& maps, Values& values) {
    const View view = room(maps, values);
    layer.backend().upload(maps.values.data(), std::ssize(maps.values), values.data());
    return view;
  }
  void download(const Values& values, FeatureMaps<T>& maps) {
    if constexpr (syncbn::defers_errors<Communicator>) layer.synchronize();
    layer.backend().download(values.data(), std::ssize(maps.values), maps.values.data());
  }
  void add(View gradient, std::vector<T>& sum) {
    std::vector<T> values(sum.size());
    layer.backend().download(gradient.data(), gradient.extent(0), values.data());
    for (std::size_t c = 0; c < sum.size(); ++c) sum[c] += values[c];
  }

  syncbn::detail::CudaStream stream;
  Layer layer;
  Values x, y, dy;
};

template <class T, class Communicator>
struct DeviceNorm<T, Communicator>::SavedOfDevice {
  typename OfDevice::Layer::Saved saved;
};

template <class T, class Communicator>
DeviceNorm<T, Communicator>::DeviceNorm(Index channels, const syncbn::BatchNormOptions& options,
                                        const OnDevice<Communicator>& place)
    : device_(std::make_unique<OfDevice>(channels, options, place.communicator)),
      weight_(static_cast<std::size_t>(channels), T{1}),
      bias_(weight_.size()),
      weight_grad_(weight_.size()),
      bias_grad_(weight_.size()) {}
template <class T, class Communicator>
DeviceNorm<T, Communicator>::DeviceNorm(DeviceNorm&&) noexcept = default;
template <class T, class Communicator>
DeviceNorm<T, Communicator>& DeviceNorm<T, Communicator>::operator=(DeviceNorm&&) noexcept = default;
template <class T, class Communicator>
DeviceNorm<T, Communicator>::~DeviceNorm() = default;

template <class T, class Communicator>
void DeviceNorm<T, Communicator>::upload_parameters() const {
  auto& layer = device_->layer;
  layer.backend().upload(weight_.data(), std::ssize(weight_), layer.weight().data());
  layer.backend().upload(bias_.data(), std::ssize(bias_), layer.bias().data());
}

template <class T, class Communicator>
void DeviceNorm<T, Communicator>::forward(const FeatureMaps<T>& x, FeatureMaps<T>& y, Saved& saved) {
  if (saved.of_device == nullptr) saved.of_device = std::make_shared<SavedOfDevice>();
  upload_parameters();
  device_->layer.forward(device_->upload(x, device_->x), device_->room(y, device_->y), saved.of_device->saved);
  device_->download(device_->y, y);
}

template <class T, class Communicator>
void DeviceNorm<T, Communicator>::backward(const FeatureMaps<T>& dy, const FeatureMaps<T>& x, const Saved& saved,
                                           FeatureMaps<T>& dx) {
  auto& layer = device_->layer;
  layer.zero_grad();
  layer.backward(device_->upload(dy, device_->dy), device_->upload(x, device_->x), saved.of_device->saved,
                 device_->room(dx, device_->y));
  device_->download(device_->y, dx);
  device_->add(layer.weight_grad(), weight_grad_);
  device_->add(layer.bias_grad(), bias_grad_);
}

template <class T, class Communicator>
void DeviceNorm<T, Communicator>::infer(const FeatureMaps<T>& x, FeatureMaps<T>& y) const {
  upload_parameters();
  device_->layer.infer(device_->upload(x, device_->x), device_->room(y, device_->y));
  device_->download(device_->y, y);
}

// All that the program uses.
template class DeviceNorm<float, syncbn::SingleProcessCommunicator>;
template class DeviceNorm<double, syncbn::SingleProcessCommunicator>;
template class DeviceNorm<float, syncbn::Staged<TimedCommunicator<syncbn::ThreadCommunicator>>>;
template class DeviceNorm<double, syncbn::Staged<TimedCommunicator<syncbn::ThreadCommunicator>>>;
template class DeviceNorm<double, syncbn::Staged<syncbn::ThreadCommunicator>>;
template class DeviceNorm<float, syncbn::NcclCommunicator>;
template class DeviceNorm<double, syncbn::NcclCommunicator>;

}  // namespace digits
