#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

// clang-format off: clang reads LibTorch 1.13 only if this comes first
#include <ATen/core/ivalue.h>
#include <torch/nn/modules/container/moduledict.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/modules/container/sequential.h>
// clang-format on

#include <syncbn/interop/torch.hpp>

/// @file
/// Synchronizes the batch normalization of a whole model, and undoes it: what `nn.SyncBatchNorm.convert_sync_batchnorm` does
/// in Python.

namespace syncbn::inline v0 {

namespace detail::torch {

using ModulePointer = std::shared_ptr<::torch::nn::Module>;

// Ours in place of one of LibTorch's: the same parameters, and buffers that share memory with its.
template <class Ours, class Theirs>
ModulePointer replacement(const Theirs& theirs) {
  const auto ours = std::make_shared<Ours>(theirs.options);
  ours->adopt(theirs);
  return ours;
}

// Null for modules that are not LibTorch's batch normalization.
inline ModulePointer replacement(const ::torch::nn::Module& module) {
  using namespace ::torch::nn;
  if (const auto* b = module.as<BatchNorm1dImpl>()) return replacement<syncbn::torch::BatchNorm1dImpl>(*b);
  if (const auto* b = module.as<BatchNorm2dImpl>()) return replacement<syncbn::torch::BatchNorm2dImpl>(*b);
  if (const auto* b = module.as<BatchNorm3dImpl>()) return replacement<syncbn::torch::BatchNorm3dImpl>(*b);
  return nullptr;
}
inline bool is_theirs(const ::torch::nn::Module& module) {
  using namespace ::torch::nn;
  return module.as<BatchNorm1dImpl>() != nullptr || module.as<BatchNorm2dImpl>() != nullptr ||
         module.as<BatchNorm3dImpl>() != nullptr;
}

// Whether a child is an element of this list, so that another one can be put there. A class that is derived from a list may have
// members besides.
inline bool is_element(const ::torch::nn::Module& module, const ModulePointer& child) {
  using namespace ::torch::nn;
  if (const auto* list = module.as<ModuleListImpl>()) {
    return std::any_of(list->begin(), list->end(), [&](const ModulePointer& element) { return element == child; });
  }
  if (const auto* dict = module.as<ModuleDictImpl>()) {
    const auto items = dict->items();
    return std::any_of(items.begin(), items.end(), [&](const auto& item) { return item.second == child; });
  }
  if (const auto* sequential = module.as<SequentialImpl>()) {
    return std::any_of(sequential->begin(), sequential->end(),
                       [&](const AnyModule& any) { return any.ptr() == child; });
  }
  return false;
}

inline void replace_child(::torch::nn::Module& container, const std::string& name, const ModulePointer& from,
                          const ModulePointer& to) {
  using namespace ::torch::nn;
  container.replace_module(name, to);
  if (auto* list = container.as<ModuleListImpl>()) {
    for (ModulePointer& module : *list) {
      if (module == from) module = to;
    }
  } else if (auto* dict = container.as<ModuleDictImpl>()) {
    for (auto& item : *dict) {
      if (item.value() == from) item.value() = to;
    }
  } else if (auto* sequential = container.as<SequentialImpl>()) {
    const auto any = [&]<class Ours>(const Ours*) { return AnyModule(std::dynamic_pointer_cast<Ours>(to)); };
    for (AnyModule& module : *sequential) {
      if (module.ptr() != from) continue;
      if (to->as<syncbn::torch::BatchNorm1dImpl>()) module = any(to->as<syncbn::torch::BatchNorm1dImpl>());
      if (to->as<syncbn::torch::BatchNorm2dImpl>()) module = any(to->as<syncbn::torch::BatchNorm2dImpl>());
      if (to->as<syncbn::torch::BatchNorm3dImpl>()) module = any(to->as<syncbn::torch::BatchNorm3dImpl>());
    }
  }
}

// Paths of LibTorch's modules where nothing can be put in their place.
inline void find_fixed(const ::torch::nn::Module& module, const std::string& path, std::string& found) {
  for (const auto& child : module.named_children()) {
    const std::string name = path.empty() ? child.key() : path + "." + child.key();
    if (is_theirs(*child.value()) && !is_element(module, child.value())) found += (found.empty() ? "" : ", ") + name;
    find_fixed(*child.value(), name, found);
  }
}

inline void synchronize_all(::torch::nn::Module& module, const AnyCommunicator& communicator,
                            std::map<const ::torch::nn::Module*, ModulePointer>& met) {
  if (auto* ours = dynamic_cast<syncbn::torch::Synchronizable*>(&module)) ours->set_communicator(communicator);
  for (const auto& child : module.named_children()) {
    const ModulePointer& old = child.value();
    const auto [place, is_new] = met.try_emplace(old.get(), nullptr);
    if (is_new) {
      place->second = is_theirs(*old) ? replacement(*old) : old;
      const ModulePointer converted = place->second;
      synchronize_all(*converted, communicator, met);
    }
    const ModulePointer& converted = met.at(old.get());
    if (converted != old) replace_child(module, child.key(), old, converted);
  }
}

}  // namespace detail::torch

namespace torch {

/// @brief Synchronizes all batch normalization of a model from now on, over the ranks of a communicator.
///
/// The modules of this library get the communicator, wherever they are. `torch::nn::BatchNorm1d/2d/3d` are replaced by them in
/// `Sequential`, `ModuleList` and `ModuleDict`, with the same parameters, which optimizers may have already; a module that is
/// there several times stays one module. Members of other modules cannot be replaced from outside (their `forward` uses the
/// member): declare those as `syncbn::torch::BatchNorm2d`.
/// @param model  every rank converts the same. @param communicator  the ranks; of one rank: as revert_sync_batchnorm().
/// @throws Error  naming the modules that cannot be replaced, before any is.
inline void convert_sync_batchnorm(::torch::nn::Module& model, const AnyCommunicator& communicator) {
  std::string fixed;
  if (detail::torch::is_theirs(model)) fixed = "the model itself";
  detail::torch::find_fixed(model, "", fixed);
  if (!fixed.empty()) {
    throw Error(
        "torch::nn::BatchNorm that cannot be replaced, since it is no element of a Sequential, ModuleList or "
        "ModuleDict: " +
        fixed + "; use syncbn::torch::BatchNorm there");
  }
  std::map<const ::torch::nn::Module*, detail::torch::ModulePointer> met;
  detail::torch::synchronize_all(model, communicator, met);
}
/// @brief The same for a module in its holder. @param model  not empty. @param communicator  the ranks.
template <class Impl>
void convert_sync_batchnorm(const ::torch::nn::ModuleHolder<Impl>& model, const AnyCommunicator& communicator) {
  // Qualified, since convert.hpp has a function of this name that takes and returns anything.
  syncbn::torch::convert_sync_batchnorm(static_cast<::torch::nn::Module&>(*model.ptr()), communicator);
}

/// @brief Each rank by itself again: the modules of this library lose their communicator, and stay.
/// @param model  any.
inline void revert_sync_batchnorm(::torch::nn::Module& model) {
  if (auto* ours = dynamic_cast<Synchronizable*>(&model)) ours->set_communicator({});
  for (const auto& module : model.modules(/*include_self=*/false)) {
    if (auto* ours = dynamic_cast<Synchronizable*>(module.get())) ours->set_communicator({});
  }
}
/// @brief The same for a module in its holder. @param model  not empty.
template <class Impl>
void revert_sync_batchnorm(const ::torch::nn::ModuleHolder<Impl>& model) {
  syncbn::torch::revert_sync_batchnorm(static_cast<::torch::nn::Module&>(*model.ptr()));
}

}  // namespace torch
}  // namespace syncbn::inline v0
