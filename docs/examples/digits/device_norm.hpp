#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <syncbn/backends/cuda_backend.cuh>
#include <syncbn/backends/detail/cuda_handles.hpp>
#include <syncbn/backends/nccl_communicator.hpp>
#include <syncbn/backends/staged.hpp>
#include <syncbn/syncbn.hpp>

#include "feature_maps.hpp"
#include "place.hpp"

/// @file
/// Batch normalization on a CUDA device, for a network whose other layers are on the host: what it needs goes there, what
/// comes out comes back.

namespace digits {

/// @brief Says that the layers of a communicator are a device's. @tparam Communicator  one that reaches its memory.
template <class Communicator>
struct OnDevice {
  Communicator communicator;
};

/// @brief A layer with the face of the library's, and tensors and parameters on the host.
template <class T, class Communicator>
class DeviceNorm {
  using Backend = syncbn::CudaBackend<T>;
  using Layer = syncbn::BatchNorm<2, Backend, Communicator>;
  using Values = syncbn::CudaBuffer<T>;

 public:
  using Saved = typename Layer::Saved;  ///< what backward() needs

  /// @param channels, options  as the library's layer has them. @param place  with the communicator; on the current device.
  DeviceNorm(Index channels, const syncbn::BatchNormOptions& options, const OnDevice<Communicator>& place)
      : stream_(std::make_unique<syncbn::detail::CudaStream>()),
        layer_(channels, options, place.communicator, Backend(stream_->get())),
        weight_(static_cast<std::size_t>(channels), T{1}),
        bias_(weight_.size()),
        weight_grad_(weight_.size()),
        bias_grad_(weight_.size()) {}

  /// @brief As the library's layer. @{
  void forward(const FeatureMaps<T>& x, FeatureMaps<T>& y, Saved& saved) {
    upload_parameters();
    layer_.forward(upload(x, x_), room(y, y_), saved);
    download(y_, y);
  }
  void backward(const FeatureMaps<T>& dy, const FeatureMaps<T>& x, const Saved& saved, FeatureMaps<T>& dx) {
    layer_.zero_grad();
    layer_.backward(upload(dy, dy_), upload(x, x_), saved, room(dx, y_));
    download(y_, dx);
    add(layer_.weight_grad(), weight_grad_);
    add(layer_.bias_grad(), bias_grad_);
  }
  void infer(const FeatureMaps<T>& x, FeatureMaps<T>& y) const {
    upload_parameters();
    layer_.infer(upload(x, x_), room(y, y_));
    download(y_, y);
  }
  [[nodiscard]] auto weight() { return syncbn::TensorView<T>(weight_.data(), {std::ssize(weight_)}); }
  [[nodiscard]] auto bias() { return syncbn::TensorView<T>(bias_.data(), {std::ssize(bias_)}); }
  [[nodiscard]] auto weight_grad() { return syncbn::TensorView<T>(weight_grad_.data(), {std::ssize(weight_grad_)}); }
  [[nodiscard]] auto bias_grad() { return syncbn::TensorView<T>(bias_grad_.data(), {std::ssize(bias_grad_)}); }
  /// @}

 private:
  using View = syncbn::TensorView<T, syncbn::CudaSpace>;

  // Room on the device for a tensor of the shape of `maps`.
  View room(const FeatureMaps<T>& maps, Values& values) const {
    layer_.backend().make_room(values, maps.values.size());
    return {values.data(), {maps.samples, maps.channels, maps.height, maps.width}};
  }
  syncbn::TensorView<const T, syncbn::CudaSpace> upload(const FeatureMaps<T>& maps, Values& values) const {
    const View view = room(maps, values);
    layer_.backend().upload(maps.values.data(), std::ssize(maps.values), values.data());
    return view;
  }
  // Waits for the device: what has gone wrong on some rank is an exception here.
  void download(const Values& values, FeatureMaps<T>& maps) const {
    layer_.backend().download(values.data(), std::ssize(maps.values), maps.values.data());
    if constexpr (syncbn::defers_errors<Communicator>) layer_.check();
  }
  // The optimizer works on the host.
  void upload_parameters() const {
    layer_.backend().upload(weight_.data(), std::ssize(weight_), layer_.weight().data());
    layer_.backend().upload(bias_.data(), std::ssize(bias_), layer_.bias().data());
  }
  void add(View gradient, std::vector<T>& sum) const {
    std::vector<T> values(sum.size());
    layer_.backend().download(gradient.data(), gradient.extent(0), values.data());
    for (std::size_t c = 0; c < sum.size(); ++c) sum[c] += values[c];
  }

  std::unique_ptr<syncbn::detail::CudaStream> stream_;  // of the layer; stays where it is
  mutable Layer layer_;
  std::vector<T> weight_, bias_, weight_grad_, bias_grad_;
  mutable Values x_, y_, dy_;
};

template <class T, class Communicator>
struct NormChoice<T, OnDevice<Communicator>> {
  using type = DeviceNorm<T, Communicator>;
};

/// @brief On this rank's device; sums over ranks in the host's memory.
struct OnCuda {
  /// @brief As OnHost. @{
  [[nodiscard]] auto alone() const { return OnDevice<syncbn::SingleProcessCommunicator>{}; }
  template <class World>
  [[nodiscard]] auto together(const World& world) const {
    return OnDevice<syncbn::Staged<World>>{syncbn::Staged<World>(world)};
  }
  /// @}
};

/// @brief On this rank's device; sums over ranks between the devices.
struct OnCudaWithNccl : OnCuda {
  /// @brief As OnHost. @collective{the world spreads NCCL's unique id}
  template <class World>
  [[nodiscard]] auto together(const World& world) const {
    World spread = world;
    return OnDevice<syncbn::NcclCommunicator>{syncbn::NcclCommunicator::create(spread)};
  }
};

}  // namespace digits
