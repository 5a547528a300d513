#pragma once

#include <array>
#include <map>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include <syncbn/detail/layer_access.hpp>
#include <syncbn/lazy.hpp>

namespace syncbn::inline v0 {

namespace detail {

// What became of the shared layers met so far, so that two pointers to one layer become two pointers to one layer.
using ConversionMemo = std::map<const void*, std::shared_ptr<void>>;

// Whether a type is a layer, or names one in its template arguments, as containers do.
template <class T>
inline constexpr bool names_layers = false;
template <template <class...> class Container, class... Elements>
inline constexpr bool names_layers<Container<Elements...>> = (names_layers<Elements> || ...);
template <class T>
inline constexpr bool names_layers<const T> = names_layers<T>;
template <class T>
inline constexpr bool names_layers<T*> = names_layers<T>;
template <std::size_t Dims, class Backend, class Communicator>
inline constexpr bool names_layers<BatchNorm<Dims, Backend, Communicator>> = true;
template <std::size_t Dims, class Backend, class Communicator>
inline constexpr bool names_layers<LazyBatchNorm<Dims, Backend, Communicator>> = true;

// Everything that is not a layer and holds none stays what it is.
template <class To, class Module>
Module convert(Module&& module, const To&, ConversionMemo&) {
  static_assert(!names_layers<Module>,
                "convert_sync_batchnorm: looks into std::tuple, std::pair, std::array, std::vector and std::shared_ptr "
                "of a layer, not into this type, which holds layers too; convert its elements");
  return std::forward<Module>(module);
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

// `share()` makes the new layer, unless another pointer to the old one has been met.
template <class Converted, class Layer, class Share>
std::shared_ptr<Converted> convert_once(const std::shared_ptr<Layer>& layer, ConversionMemo& memo, const Share& share) {
  if (layer == nullptr) return nullptr;
  std::shared_ptr<void>& converted = memo[layer.get()];
  if (converted == nullptr) converted = std::make_shared<Converted>(share());
  return std::static_pointer_cast<Converted>(converted);
}

template <class To, std::size_t Dims, class Backend, class From>
std::shared_ptr<BatchNorm<Dims, Backend, To>> convert(std::shared_ptr<BatchNorm<Dims, Backend, From>>&& layer,
                                                      const To& communicator, ConversionMemo& memo) {
  return convert_once<BatchNorm<Dims, Backend, To>>(layer, memo,
                                                    [&] { return LayerAccess::share(*layer, communicator); });
}

template <class To, std::size_t Dims, class Backend, class From>
std::shared_ptr<LazyBatchNorm<Dims, Backend, To>> convert(std::shared_ptr<LazyBatchNorm<Dims, Backend, From>>&& layer,
                                                          const To& communicator, ConversionMemo& memo) {
  return convert_once<LazyBatchNorm<Dims, Backend, To>>(layer, memo,
                                                        [&] { return layer->with_communicator(communicator); });
}

// Containers whose types may change with those of their elements. Declared first: they may hold one another.
template <class To, class... Modules>
auto convert(std::tuple<Modules...>&& modules, const To& communicator, ConversionMemo& memo);
template <class To, class First, class Second>
auto convert(std::pair<First, Second>&& modules, const To& communicator, ConversionMemo& memo);
template <class To, class Module, std::size_t Size>
auto convert(std::array<Module, Size>&& modules, const To& communicator, ConversionMemo& memo);
template <class To, class Module>
auto convert(std::vector<Module>&& modules, const To& communicator, ConversionMemo& memo);

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
template <class To, class Module>
auto convert(std::vector<Module>&& modules, const To& communicator, ConversionMemo& memo) {
  std::vector<decltype(convert<To>(std::declval<Module>(), communicator, memo))> result;
  result.reserve(modules.size());
  for (Module& module : modules) result.push_back(convert<To>(std::move(module), communicator, memo));
  return result;
}

}  // namespace detail

/// @brief The same module with its batch normalization layers in another group.
///
/// A layer given by value keeps its state: moved from an rvalue, copied from an lvalue. A `std::shared_ptr` to a layer
/// becomes one to a new layer that shares parameters, gradients, running statistics and counter with the old one, so that
/// optimizers stay valid; pointers to the same layer become pointers to the same new one. (A lazy one that has seen no
/// input has nothing to share yet.) Tuples, pairs, arrays and vectors are converted element by element, also within each
/// other; what holds no layer is passed on, and another container of layers does not compile. Dims, options, mode,
/// tracking flag, frozen parameters and names are kept. Layers that are synchronized already change their group.
/// @param module        by value: a layer, lazy or not, a shared_ptr to one, or a container of modules.
/// @param communicator  the group. @return the converted module; its type has @p To in place of each communicator.
template <class Module, communicator To>
[[nodiscard]] auto convert_sync_batchnorm(Module module, const To& communicator) {
  detail::ConversionMemo memo;
  return detail::convert<To>(std::move(module), communicator, memo);
}

/// @brief The inverse: layers of this process alone, with the same Dims and state. @param module  by value.
/// @return the reverted module.
template <class Module>
[[nodiscard]] auto revert_sync_batchnorm(Module module) {
  return convert_sync_batchnorm(std::move(module), SingleProcessCommunicator());
}

}  // namespace syncbn::inline v0
