#pragma once

#include <cstdint>
#include <string>

#include <syncbn/concepts.hpp>
#include <syncbn/detail/channel_functors.hpp>
#include <syncbn/detail/make_room.hpp>
#include <syncbn/options.hpp>

// What a layer owns and shares with its converted forms: parameters, gradients, running statistics and their counter.

namespace syncbn::inline v0::detail {

template <class Space, class Buffer>
auto whole(Buffer& buffer) noexcept {
  using T = std::remove_pointer_t<decltype(buffer.data())>;
  return TensorView<T, Space>(buffer.size() == 0 ? nullptr : buffer.data(), {static_cast<Index>(buffer.size())});
}

struct LayerFlags {
  bool training = true;
  bool tracks = true;  // updates running statistics in training
  bool weight_requires_grad = true;
  bool bias_requires_grad = true;
};

template <class Backend>
struct StateStorage {
  using P = typename Backend::parameter_type;
  using Buffer = typename Backend::template buffer<P>;

  Index channels;
  bool affine;
  bool tracked;  // has running statistics
  Buffer weight, bias, weight_grad, bias_grad, running_mean, running_var;
  typename Backend::template buffer<std::int64_t> num_batches_tracked;

  StateStorage(Backend& backend, Index channel_count, const BatchNormOptions& options)
      : channels(channel_count), affine(options.affine), tracked(options.track_running_stats) {
    const auto size = static_cast<std::size_t>(channels);
    if (affine) {
      for (Buffer* b : {&weight, &bias, &weight_grad, &bias_grad}) make_room(backend, *b, size);
    }
    if (tracked) {
      make_room(backend, running_mean, size);
      make_room(backend, running_var, size);
      make_room(backend, num_batches_tracked, std::size_t{1});
    }
    reset_parameters(backend);
    zero_grad(backend);
  }

  template <class T, class Array>
  static void fill(Backend& backend, Array& array, T value) {
    backend.for_each_channel(static_cast<Index>(array.size()), Fill<T>{array.data(), value});
  }

  void reset_running_stats(Backend& backend) {
    if (!tracked) return;
    fill(backend, running_mean, P{0});
    fill(backend, running_var, P{1});
    fill(backend, num_batches_tracked, std::int64_t{0});
  }

  void reset_parameters(Backend& backend) {
    reset_running_stats(backend);
    if (!affine) return;
    fill(backend, weight, P{1});
    fill(backend, bias, P{0});
  }

  void zero_grad(Backend& backend) {
    fill(backend, weight_grad, P{0});
    fill(backend, bias_grad, P{0});
  }

  std::int64_t batches(const Backend& backend) const {
    std::int64_t value = 0;
    if (tracked) backend.download(num_batches_tracked.data(), Index{1}, &value);
    return value;
  }
};

// What conversion and lazy layers may see of a layer.
struct LayerAccess;

}  // namespace syncbn::inline v0::detail
