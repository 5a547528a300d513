// What sync_batch_norm.py calls: one place in a model where batches are normalized, over the ranks of a process group.

#include <chrono>
#include <cstdint>
#include <optional>

#include <torch/extension.h>

#include <syncbn/interop/torch_normalizer.hpp>
#include <syncbn/interop/torch_process_group.hpp>

namespace {

using syncbn::torch::Normalizer;
using Group = c10::intrusive_ptr<c10d::ProcessGroup>;
using MaybeTensor = std::optional<at::Tensor>;

Normalizer make_normalizer(std::int64_t channels, bool affine, bool track_running_stats,
                           const std::optional<Group>& group, double timeout) {
  const auto options = torch::nn::BatchNormOptions(channels).affine(affine).track_running_stats(track_running_stats);
  if (!group) return Normalizer(options);
  const auto limit = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::duration<double>(timeout));
  return Normalizer(options, syncbn::torch::ProcessGroupCommunicator<>(*group, limit));
}

at::Tensor forward(const Normalizer& normalizer, const at::Tensor& x, const MaybeTensor& weight,
                   const MaybeTensor& bias, const MaybeTensor& running_mean, const MaybeTensor& running_var,
                   const MaybeTensor& num_batches_tracked, double eps, std::optional<double> momentum, bool training) {
  const at::Tensor none;
  return normalizer.forward(x,
                            {weight.value_or(none), bias.value_or(none), running_mean.value_or(none),
                             running_var.value_or(none), num_batches_tracked.value_or(none)},
                            {.eps = eps, .momentum = momentum, .training = training});
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  py::module_::import("torch.distributed");  // knows process groups
  py::class_<Normalizer>(module, "Normalizer")
      .def(py::init(&make_normalizer))
      .def("forward", &forward, py::call_guard<py::gil_scoped_release>());  // waits for other ranks
}
