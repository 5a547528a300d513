// cuDNN's batch normalization, by the calls that frameworks use: those of versions 7 to 9.

#include <cudnn.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <syncbn/backends/detail/cuda_check.hpp>

#include "contenders.hpp"
#include "device_bytes.hpp"

namespace bench {
namespace {

struct CudnnError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
void check(cudnnStatus_t status, const char* call) {
  if (status != CUDNN_STATUS_SUCCESS) throw CudnnError(std::string(call) + ": " + cudnnGetErrorString(status));
}
#define BENCH_CUDNN_CALL(function, ...) check(function(__VA_ARGS__), #function)

cudnnDataType_t type_of(Format format) {
  switch (format) {
    case Format::f64:
      return CUDNN_DATA_DOUBLE;
    case Format::bf16:
      return CUDNN_DATA_BFLOAT16;
    case Format::f16:
      return CUDNN_DATA_HALF;
    case Format::f32:
      break;
  }
  return CUDNN_DATA_FLOAT;
}

class Handle {
 public:
  Handle() { BENCH_CUDNN_CALL(cudnnCreate, &handle_); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() { static_cast<void>(cudnnDestroy(handle_)); }

  cudnnHandle_t get() const { return handle_; }

 private:
  cudnnHandle_t handle_ = nullptr;
};

class Descriptor {
 public:
  Descriptor() { BENCH_CUDNN_CALL(cudnnCreateTensorDescriptor, &descriptor_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { static_cast<void>(cudnnDestroyTensorDescriptor(descriptor_)); }

  // At least four dimensions: those that are missing are 1.
  void set(const Case& c) {
    std::vector<int> extents(c.extents.begin(), c.extents.end());
    const std::vector<Index> given = c.strides();
    std::vector<int> strides(given.begin(), given.end());
    extents.resize(std::max<std::size_t>(extents.size(), 4), 1);
    strides.resize(extents.size(), 1);
    BENCH_CUDNN_CALL(cudnnSetTensorNdDescriptor, descriptor_, type_of(c.format), static_cast<int>(extents.size()),
                     extents.data(), strides.data());
  }
  cudnnTensorDescriptor_t get() const { return descriptor_; }

 private:
  cudnnTensorDescriptor_t descriptor_ = nullptr;
};

// A value for each channel, float or double as the case wants.
class PerChannel {
 public:
  PerChannel(const Case& c, const std::vector<float>& values, float otherwise) {
    std::vector<float> singles(static_cast<std::size_t>(c.channels()), otherwise);
    if (!values.empty()) singles = values;
    const std::vector<double> doubles(singles.begin(), singles.end());
    const bool wide = c.format == Format::f64;
    const void* const from = wide ? static_cast<const void*>(doubles.data()) : static_cast<const void*>(singles.data());
    const std::size_t bytes = singles.size() * (wide ? sizeof(double) : sizeof(float));
    memory_.reset(bytes);
    syncbn::cuda::check(cudaMemcpy(memory_.data(), from, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  void* get() { return memory_.data(); }

 private:
  DeviceBytes memory_;
};

// Everything of one case; kept alive by its Run.
class Problem {
 public:
  Problem(const Case& c, const Buffers& buffers, cudnnBatchNormMode_t mode)
      : mode_(mode),
        buffers_(buffers),
        one_{1.0F, 1.0},
        weight_(c, buffers.weight, 1),
        bias_(c, buffers.bias, 0),
        running_mean_(c, {}, 0),
        running_var_(c, {}, 1),
        mean_(c, {}, 0),
        inverse_deviation_(c, {}, 1),
        weight_grad_(c, {}, 0),
        bias_grad_(c, {}, 0),
        wide_(c.format == Format::f64) {
    data_.set(c);
    BENCH_CUDNN_CALL(cudnnDeriveBNTensorDescriptor, channels_.get(), data_.get(), mode_);
    if (c.pass == Pass::inference) return;
    std::size_t forward = 0;
    std::size_t backward = 0;
    std::size_t reserved = 0;
    BENCH_CUDNN_CALL(cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize, handle_.get(), mode_,
                     CUDNN_BATCHNORM_OPS_BN, data_.get(), nullptr, data_.get(), channels_.get(), nullptr, &forward);
    BENCH_CUDNN_CALL(cudnnGetBatchNormalizationBackwardExWorkspaceSize, handle_.get(), mode_, CUDNN_BATCHNORM_OPS_BN,
                     data_.get(), nullptr, data_.get(), nullptr, data_.get(), channels_.get(), nullptr, &backward);
    BENCH_CUDNN_CALL(cudnnGetBatchNormalizationTrainingExReserveSpaceSize, handle_.get(), mode_, CUDNN_BATCHNORM_OPS_BN,
                     nullptr, data_.get(), &reserved);
    workspace_.reset(std::max(forward, backward));
    reserved_.reset(reserved);
  }

  void forward() {
    BENCH_CUDNN_CALL(cudnnBatchNormalizationForwardTrainingEx, handle_.get(), mode_, CUDNN_BATCHNORM_OPS_BN, one(),
                     zero(), data_.get(), buffers_.x, nullptr, nullptr, data_.get(), buffers_.y, channels_.get(),
                     weight_.get(), bias_.get(), 0.1, running_mean_.get(), running_var_.get(), eps, mean_.get(),
                     inverse_deviation_.get(), nullptr, workspace_.data(), workspace_.size(), reserved_.data(),
                     reserved_.size());
  }
  void backward() {
    BENCH_CUDNN_CALL(cudnnBatchNormalizationBackwardEx, handle_.get(), mode_, CUDNN_BATCHNORM_OPS_BN, one(), zero(),
                     one(), zero(), data_.get(), buffers_.x, nullptr, nullptr, data_.get(), buffers_.dy, nullptr,
                     nullptr, data_.get(), buffers_.y, channels_.get(), weight_.get(), bias_.get(), weight_grad_.get(),
                     bias_grad_.get(), eps, mean_.get(), inverse_deviation_.get(), nullptr, workspace_.data(),
                     workspace_.size(), reserved_.data(), reserved_.size());
  }
  void infer() {
    BENCH_CUDNN_CALL(cudnnBatchNormalizationForwardInference, handle_.get(), mode_, one(), zero(), data_.get(),
                     buffers_.x, data_.get(), buffers_.y, channels_.get(), weight_.get(), bias_.get(),
                     running_mean_.get(), running_var_.get(), eps);
  }

 private:
  static constexpr double eps = 1e-5;

  const void* one() const {
    return wide_ ? static_cast<const void*>(&one_.wide) : static_cast<const void*>(&one_.single);
  }
  const void* zero() const { return &zero_; }  // of either type

  Handle handle_;  // of the default stream
  cudnnBatchNormMode_t mode_;
  Descriptor data_, channels_;
  Buffers buffers_;
  struct One {
    float single;
    double wide;
  } one_;
  double zero_ = 0;
  PerChannel weight_, bias_, running_mean_, running_var_, mean_, inverse_deviation_, weight_grad_, bias_grad_;
  DeviceBytes workspace_, reserved_;
  bool wide_;
};

Run make(const Case& c, const Buffers& buffers, bool persistent) {
  const bool flat = c.extents.size() == 2;
  if (!c.affine || c.sliced || c.in_place || c.unaligned) return {};
  if (persistent && (flat || c.pass == Pass::inference)) return {};
  const auto mode = flat         ? CUDNN_BATCHNORM_PER_ACTIVATION
                    : persistent ? CUDNN_BATCHNORM_SPATIAL_PERSISTENT
                                 : CUDNN_BATCHNORM_SPATIAL;
  try {
    const auto problem = std::make_shared<Problem>(c, buffers, mode);
    const auto result = [y = buffers.y] { return y; };
    switch (c.pass) {
      case Pass::forward:
        problem->forward();
        return {[problem] { problem->forward(); }, result};
      case Pass::inference:
        problem->infer();
        return {[problem] { problem->infer(); }, result};
      case Pass::backward:
        problem->forward();
        problem->backward();
        return {[problem] { problem->backward(); }, result};
    }
  } catch (const CudnnError& e) {
    std::fprintf(stderr, "%s: cuDNN%s does not take part: %s\n", c.text().c_str(), persistent ? ", persistent," : "",
                 e.what());
  }
  return {};
}

}  // namespace

std::vector<Contender> contenders_cudnn() {
  return {{"cudnn", [](const Case& c, const Buffers& b) { return make(c, b, false); }},
          {"cudnn.persistent", [](const Case& c, const Buffers& b) { return make(c, b, true); }}};
}

}  // namespace bench
