#pragma once

#include <string>

#include <syncbn/fwd.hpp>
#include <syncbn/passes.hpp>
#include <syncbn/saved.hpp>
#include <syncbn/validation.hpp>

namespace syncbn::inline v0 {

/// @brief The per-channel tensors of the functional form, each optional: a view of nothing is an absent one.
/// @tparam P  float or double. @tparam Space  where they lie.
template <class P, class Space = HostSpace>
struct BatchNormTensors {
  TensorView<P, Space> running_mean{};  ///< updated in training @shape{(C)}
  TensorView<P, Space> running_var{};   ///< updated in training @shape{(C)}
  TensorView<const P, Space> weight{};  ///< absent: 1 @shape{(C)}
  TensorView<const P, Space> bias{};    ///< absent: 0 @shape{(C)}
};

namespace detail {

template <class T, class Space>
void check_optional(const char* name, const TensorView<T, Space>& v, Index channels) {
  if (v.data() != nullptr) check_channels(name, v.extent(0), channels);
}

template <class X, class Y, class Tensors>
void check_functional(const X& x, const Y& y, const Tensors& tensors, bool training) {
  check_rank<any_dims>(x.rank());
  // Of no channels, a given tensor may well have a null pointer.
  const auto absent = [&](const auto& v) { return v.data() == nullptr && (v.rank() == 0 || x.extent(1) > 0); };
  if (training) check_more_than_one_value(x);
  const auto check_running = [&](const std::string& name, const auto& v) {
    if (!training && absent(v)) throw Error(name + " must be defined in evaluation mode");
    check_optional(name.c_str(), v, x.extent(1));
  };
  check_running("running_mean", tensors.running_mean);
  check_running("running_var", tensors.running_var);
  check_optional("weight", tensors.weight, x.extent(1));
  check_optional("bias", tensors.bias, x.extent(1));
  check_output(y, x);
}

}  // namespace detail

/// @brief PyTorch's functional batch norm on tensors that the caller owns; on this process alone.
///
/// In training, batch statistics normalize and the running ones that are given are updated (not by an empty batch);
/// otherwise running_mean and running_var normalize.
/// @tparam Backend   whose kernels; its parameter type is that of @p tensors.
/// @param[in]  x     activations. @shape{(N, C, S...)} @param[out] y  may be x. @shape{same as x}
/// @param tensors    running statistics and parameters, each optional in training.
/// @param training   which statistics normalize. @param momentum  weight of this batch. @param eps  inside the root.
/// @param backend    the device. @return what batch_norm_backward() needs.
/// @throws ShapeError  for a wrong shape or a single value per channel. @throws Error  for a wrong number of channels or
/// missing running statistics; before anything is written.
template <backend Backend = CpuBackend<>, readable_by<Backend> X, class Y>
  requires writable_by<Y, Backend> && same_format_as<const X, Y>
SavedForward<Backend> batch_norm(
    const X& x, Y&& y, BatchNormTensors<typename Backend::parameter_type, typename Backend::memory_space> tensors,
    bool training = false, double momentum = 0.1, double eps = 1e-5, Backend backend = Backend()) {
  const auto input = view(x);
  const auto output = view(y);
  detail::check_functional(input, output, tensors, training);
  SavedForward<Backend> saved;
  saved.prepare(backend, input);
  saved.batch_statistics = training;
  if (training) {
    Moments<Backend> moments;
    normalize_alone(backend, input, eps, moments, saved.statistics, tensors.weight, tensors.bias, output);
    update_running(backend, saved.statistics, momentum, tensors.running_mean, tensors.running_var);
  } else {
    use_running(backend, tensors.running_mean, tensors.running_var, eps, saved.statistics);
    normalize(backend, input, saved.statistics, tensors.weight, tensors.bias, output);
  }
  return saved;
}

/// @brief The gradients of batch_norm().
/// @param[in] dy   gradient of y. @shape{same as x} @param[in] x  as given to the forward pass.
/// @param saved    of the forward pass. @param weight  as given to the forward pass, or a view of nothing.
/// @param[out] dx  may be dy. @shape{same as x}
/// @param[in,out] weight_grad  is added to; a view of nothing: not wanted. @shape{(C)}
/// @param[in,out] bias_grad    likewise. @shape{(C)} @param backend  the device.
/// @throws ShapeError  if shapes differ from those of the forward pass, before anything is written.
template <backend Backend, readable_by<Backend> D, readable_by<Backend> X, class DX>
  requires writable_by<DX, Backend> && same_format_as<const D, const X> && same_format_as<const X, DX>
void batch_norm_backward(const D& dy, const X& x, const SavedForward<Backend>& saved,
                         TensorView<const typename Backend::parameter_type, typename Backend::memory_space> weight,
                         DX&& dx,
                         TensorView<typename Backend::parameter_type, typename Backend::memory_space> weight_grad = {},
                         TensorView<typename Backend::parameter_type, typename Backend::memory_space> bias_grad = {},
                         Backend backend = Backend()) {
  const auto gradient = view(dy);
  const auto input = view(x);
  const auto output = view(dx);
  detail::check_backward(gradient, input, saved.extents());
  detail::check_input_gradient(output, gradient, input);
  detail::check_optional("weight", weight, input.extent(1));
  detail::check_optional("weight_grad", weight_grad, input.extent(1));
  detail::check_optional("bias_grad", bias_grad, input.extent(1));
  GradientSums<Backend> sums;
  if (saved.batch_statistics) {
    GradientCoefficients<Backend> coefficients;
    propagate_alone(backend, gradient, input, saved.statistics, sums, coefficients, weight, output);
  } else {
    sums.reset(backend, input.extent(1));
    accumulate(backend, gradient, input, saved.statistics, sums);
    propagate(backend, gradient, saved.statistics, weight, output);
  }
  add_parameter_gradients(backend, sums, saved.statistics, weight_grad, bias_grad);
}

}  // namespace syncbn::inline v0
