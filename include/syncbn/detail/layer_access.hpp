#pragma once

#include <memory>
#include <utility>

#include <syncbn/batch_norm.hpp>

// How conversion and lazy layers reach into a layer.

namespace syncbn::inline v0::detail {

struct LayerAccess {
  // The same layer in another group, sharing state with `layer`.
  template <std::size_t Dims, class Backend, class From, class To>
  static BatchNorm<Dims, Backend, To> share(const BatchNorm<Dims, Backend, From>& layer, To communicator) {
    return share(layer, layer.exchange_.with(std::move(communicator)));
  }
  template <std::size_t Dims, class Backend, class From, class To>
  static BatchNorm<Dims, Backend, To> share(const BatchNorm<Dims, Backend, From>& layer, Exchange<To> exchange) {
    return BatchNorm<Dims, Backend, To>(layer, layer.storage_, std::move(exchange));
  }

  // A layer around an exchange that exists already.
  template <std::size_t Dims, class Backend, class Communicator>
  static BatchNorm<Dims, Backend, Communicator> make(Index channels, const BatchNormOptions& options,
                                                     Exchange<Communicator> exchange, const Backend& backend) {
    return BatchNorm<Dims, Backend, Communicator>(channels, options, std::move(exchange), backend);
  }
};

}  // namespace syncbn::inline v0::detail
