#pragma once

#include <array>
#include <map>
#include <memory>
#include <tuple>
#include <utility>

#include <syncbn/detail/layer_access.hpp>
#include <syncbn/lazy.hpp>

namespace syncbn::inline v0 {

namespace detail {

// What became of the shared layers met so far, so that two pointers to one layer become two pointers to one layer.
using ConversionMemo = std::map<const void*, std::shared_ptr<void>>;

// Everything that is not a layer and holds none stays what it is.
template <class To, class Module>
Module convert(Module&& module, const To&, ConversionMemo&) {
  return std::move(module);
}

template <class To, std::size_t Dims, class Backend, class From>
BatchNorm<Dims, Backend, To> convert(BatchNorm<Dims, Backend, From>&& layer, const To& communicator, ConversionMemo&) {
  return LayerAccess::share(layer, communicator);
}

template <class To, std::size_t Dims, class Backend, class From>
LazyBatchNorm<Dims, Backend, To> convert(LazyBatchNorm<Dims, Backend, From>&& layer, const To& communicator,
                                         ConversionMemo&) {
  return layer.with_communicator(communicator);
}

template <class To, std::size_t Dims, class Backend, class From>
std::shared_ptr<BatchNorm<Dims, Backend, To>> convert(std::shared_ptr<BatchNorm<Dims, Backend, From>>&& layer,
                                                      const To& communicator, ConversionMemo& memo) {
  if (layer == nullptr) return nullptr;
  std::shared_ptr<void>& converted = memo[layer.get()];
  if (converted == nullptr) {
    converted = std::make_shared<BatchNorm<Dims, Backend, To>>(LayerAccess::share(*layer, communicator));
  }
  return std::static_pointer_cast<BatchNorm<Dims, Backend, To>>(converted);
}

// Containers whose types may change with those of their elements. Declared first: they may hold one another.
template <class To, class... Modules>
auto convert(std::tuple<Modules...>&& modules, const To& communicator, ConversionMemo& memo);
template <class To, class First, class Second>
auto convert(std::pair<First, Second>&& modules, const To& communicator, ConversionMemo& memo);
template <class To, class Module, std::size_t Size>
auto convert(std::array<Module, Size>&& modules, const To& communicator, ConversionMemo& memo);

template <class To, class... Modules>
auto convert(std::tuple<Modules...>&& modules, const To& communicator, ConversionMemo& memo) {
  // Braces: elements are converted from the first to the last, on every rank alike.
  return std::apply(
      [&](Modules&... module) {
        return std::tuple<decltype(convert<To>(std::move(module), communicator, memo))...>{
            convert<To>(std::move(module), communicator, memo)...};
      },
      modules);
}
template <class To, class First, class Second>
auto convert(std::pair<First, Second>&& modules, const To& communicator, ConversionMemo& memo) {
  auto first = convert<To>(std::move(modules.first), communicator, memo);
  auto second = convert<To>(std::move(modules.second), communicator, memo);
  return std::pair(std::move(first), std::move(second));
}
template <class To, class Module, std::size_t Size>
auto convert(std::array<Module, Size>&& modules, const To& communicator, ConversionMemo& memo) {
  return std::apply(
      [&](auto&... module) {
        return std::array<decltype(convert<To>(std::declval<Module>(), communicator, memo)), Size>{
            convert<To>(std::move(module), communicator, memo)...};
      },
      modules);
}

}  // namespace detail

/// @brief The same module with its batch normalization layers in another group.
///
/// A layer given by value keeps its state: moved from an rvalue, copied from an lvalue. A `std::shared_ptr` to a layer
/// becomes one to a new layer that shares parameters, gradients, running statistics and counter with the old one, so that
/// optimizers stay valid; pointers to the same layer become pointers to the same new one. Tuples, pairs and arrays are
/// converted element by element, also within each other; everything else is passed on. Dims, options, mode, tracking
/// flag, frozen parameters and names are kept. Layers that are synchronized already change their group.
/// @param module        by value: a layer, lazy or not, a shared_ptr to one, or a container of modules.
/// @param communicator  the group. @return the converted module; its type has @p To in place of each communicator.
template <class Module, communicator To>
auto convert_sync_batchnorm(Module module, const To& communicator) {
  detail::ConversionMemo memo;
  return detail::convert<To>(std::move(module), communicator, memo);
}

/// @brief The inverse: layers of this process alone, with the same Dims and state. @param module  by value.
/// @return the reverted module.
template <class Module>
auto revert_sync_batchnorm(Module module) {
  return convert_sync_batchnorm(std::move(module), SingleProcessCommunicator());
}

}  // namespace syncbn::inline v0
