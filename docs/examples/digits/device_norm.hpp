#pragma once

#include <memory>
#include <vector>

#include <syncbn/backends/nccl_communicator.hpp>
#include <syncbn/backends/staged.hpp>
#include <syncbn/syncbn.hpp>

#include "feature_maps.hpp"
#include "place.hpp"

/// @file
/// Batch normalization on a CUDA device, for a network whose other layers are on the host: what it needs goes there, what
/// comes out comes back. This header is for any compiler; device_norm.cu is what nvcc has to see.

namespace digits {

/// @brief Says that the layers of a communicator are a device's. @tparam Communicator  one that reaches its memory.
template <class Communicator>
struct OnDevice {
  Communicator communicator;
};

/// @brief A layer with the face of the library's, and tensors and parameters on the host.
template <class T, class Communicator>
class DeviceNorm {
  struct OfDevice;
  struct SavedOfDevice;

 public:
  /// @brief What backward() needs of forward().
  struct Saved {
    std::shared_ptr<SavedOfDevice> of_device;
  };

  /// @param channels, options  as the library's layer has them. @param place  with the communicator; on the current device.
  DeviceNorm(Index channels, const syncbn::BatchNormOptions& options, const OnDevice<Communicator>& place);
  DeviceNorm(DeviceNorm&&) noexcept;
  DeviceNorm& operator=(DeviceNorm&&) noexcept;
  ~DeviceNorm();

  /// @brief As the library's layer. Each call waits for the device: what has gone wrong on some rank is an exception. @{
  void forward(const FeatureMaps<T>& x, FeatureMaps<T>& y, Saved& saved);
  void backward(const FeatureMaps<T>& dy, const FeatureMaps<T>& x, const Saved& saved, FeatureMaps<T>& dx);
  void infer(const FeatureMaps<T>& x, FeatureMaps<T>& y) const;
  [[nodiscard]] syncbn::TensorView<T> weight() { return view_of(weight_); }
  [[nodiscard]] syncbn::TensorView<T> bias() { return view_of(bias_); }
  [[nodiscard]] syncbn::TensorView<T> weight_grad() { return view_of(weight_grad_); }
  [[nodiscard]] syncbn::TensorView<T> bias_grad() { return view_of(bias_grad_); }
  /// @}

 private:
  static syncbn::TensorView<T> view_of(std::vector<T>& values) { return {values.data(), {std::ssize(values)}}; }
  void upload_parameters() const;

  std::unique_ptr<OfDevice> device_;
  std::vector<T> weight_, bias_, weight_grad_, bias_grad_;  // the optimizer works on the host
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
