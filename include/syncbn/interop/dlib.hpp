#pragma once

#include <algorithm>
#include <cstdint>
#include <istream>
#include <optional>
#include <ostream>
#include <sstream>
#include <string>
#include <utility>

#include <dlib/dnn.h>

#include <syncbn/backends/any_communicator.hpp>
#include <syncbn/backends/cpu_backend.hpp>
#include <syncbn/borrowed.hpp>

/// @file
/// Layers for networks of dlib, in place of `dlib::bn_con` and `dlib::bn_fc`, on the CPU. Given a communicator, their
/// statistics are those of all ranks. Serialized networks are those of dlib's own layers, either way.

namespace syncbn::inline v0 {

/// @brief dlib's tensors: (samples, k, nr, nc).
template <>
struct tensor_traits<::dlib::tensor> {
  /// @brief A view that may write. @param t  brought to the host if it is on a device. @return the same elements.
  static TensorView<float> view(::dlib::tensor& t) { return {t.host(), {t.num_samples(), t.k(), t.nr(), t.nc()}}; }
  /// @brief A read-only view. @param t  likewise. @return the same elements.
  static TensorView<const float> view(const ::dlib::tensor& t) {
    return {t.host(), {t.num_samples(), t.k(), t.nr(), t.nc()}};
  }
};
/// @brief The same for tensors that own their memory.
template <>
struct tensor_traits<::dlib::resizable_tensor> : tensor_traits<::dlib::tensor> {};

/// @brief What dlib's users see.
namespace dlib {

/// @brief What `dlib::bn_` is, on this library's kernels.
///
/// Without a communicator it behaves as dlib's: a batch of one sample is inference. With one, ranks may have any number of
/// samples, and say by train() and eval() what they do. The gradient is that of the sum of all ranks' losses; dlib's losses
/// divide by the samples of a rank, so give all ranks the same number, and divide the summed gradients by the ranks.
/// What in dlib is made for its own layers (`affine`, `disable_duplicative_biases`) does not see these: read the file of a network
/// with these layers into one with those.
/// @tparam mode  `dlib::CONV_MODE`: statistics for each k; `dlib::FC_MODE`: for each of k * nr * nc.
template <::dlib::layer_mode mode>
class bn_ {
  using Layer = BorrowingBatchNorm<any_dims, CpuBackend<float>, AnyCommunicator>;

 public:
  /// @brief As dlib's. @param window  batches over which running statistics are averaged. @param eps  inside the root.
  explicit bn_(unsigned long window = 100, double eps = ::dlib::DEFAULT_BATCH_NORM_EPS) : eps_(eps) {
    set_running_stats_window_size(window);
  }
  /// @brief Takes over a layer of dlib: networks of dlib can be given to the constructor of one with layers of ours.
  /// @param theirs  copied from.
  bn_(const ::dlib::bn_<mode>& theirs) : bn_() {
    std::stringstream file;
    serialize(theirs, file);
    deserialize(*this, file);
  }

  /// @brief Statistics of all ranks from now on. @param communicator  every rank gives its layers theirs in the same order.
  void set_communicator(AnyCommunicator communicator) {
    communicator_ = std::move(communicator);
    layer_.reset();
  }
  /// @brief Statistics of the batch, whatever its size. @param training  false: the running ones, as eval().
  void train(bool training = true) noexcept { training_ = training; }
  /// @brief Running statistics normalize. A layer on which neither was called, and that has no other ranks, goes by the
  /// number of samples, as dlib's.
  void eval() noexcept { training_ = false; }

  /// @brief Batches over which running statistics are averaged. @param window  1 or more. @throws Error if it is 0.
  void set_running_stats_window_size(unsigned long window) {
    if (window == 0) throw Error("the window of running statistics has at least one batch");
    window_ = window;
    updates_ = std::min(updates_, window_);
  }

  /// @cond dlib's interface of layers
  ::dlib::layer_mode get_mode() const { return mode; }
  unsigned long get_running_stats_window_size() const { return window_; }
  double get_eps() const { return eps_; }
  double get_learning_rate_multiplier() const { return learning_rate_multiplier_; }
  double get_weight_decay_multiplier() const { return weight_decay_multiplier_; }
  double get_bias_learning_rate_multiplier() const { return bias_learning_rate_multiplier_; }
  double get_bias_weight_decay_multiplier() const { return bias_weight_decay_multiplier_; }
  void set_learning_rate_multiplier(double value) { learning_rate_multiplier_ = value; }
  void set_weight_decay_multiplier(double value) { weight_decay_multiplier_ = value; }
  void set_bias_learning_rate_multiplier(double value) { bias_learning_rate_multiplier_ = value; }
  void set_bias_weight_decay_multiplier(double value) { bias_weight_decay_multiplier_ = value; }
  ::dlib::dpoint map_input_to_output(const ::dlib::dpoint& p) const { return p; }
  ::dlib::dpoint map_output_to_input(const ::dlib::dpoint& p) const { return p; }

  template <class Subnet>
  void setup(const Subnet& sub) {
    const ::dlib::tensor& x = sub.get_output();
    gamma_ = mode == ::dlib::FC_MODE ? ::dlib::alias_tensor(1, x.k(), x.nr(), x.nc()) : ::dlib::alias_tensor(1, x.k());
    params_.set_size(static_cast<long long>(2 * gamma_.size()));
    std::fill_n(params_.host(), channels(), 1.0F);
    std::fill_n(params_.host() + channels(), channels(), 0.0F);
    running_means_.copy_size(gamma_(params_, 0));
    running_variances_.copy_size(gamma_(params_, 0));
    running_means_ = 0;
    running_variances_ = 1;
    updates_ = 0;
    layer_.reset();
  }

  template <class Subnet>
  void forward(const Subnet& sub, ::dlib::resizable_tensor& output) {
    const ::dlib::tensor& x = sub.get_output();
    output.copy_size(x);
    if (!layer_) layer_.emplace(channels(), BatchNormOptions{.eps = eps_}, communicator_);
    layer_->train(training_.value_or(communicator_.size() > 1 || x.num_samples() > 1));
    // An average over all batches so far, up to as many as the window has.
    layer_->set_momentum(1.0 / static_cast<double>(updates_ + 1));
    std::int64_t batches = static_cast<std::int64_t>(updates_);
    const auto size = static_cast<std::size_t>(channels());
    layer_->borrow({.weight = {params_.host(), size},
                    .bias = {params_.host() + size, size},
                    .running_mean = {running_means_.host(), size},
                    .running_var = {running_variances_.host(), size},
                    .num_batches_tracked = {&batches, 1}});
    layer_->forward(shaped(view(x)), shaped(view(output)), saved_);
    updates_ = std::min(static_cast<unsigned long>(batches), window_);
  }

  template <class Subnet>
  void backward(const ::dlib::tensor& gradient_input, Subnet& sub, ::dlib::tensor& params_grad) {
    if (!layer_) throw Error("a backward pass without a forward pass");
    const auto size = static_cast<std::size_t>(channels());
    std::int64_t batches = static_cast<std::int64_t>(updates_);
    params_grad = 0;
    layer_->borrow({.weight = {params_.host(), size},
                    .bias = {params_.host() + size, size},
                    .weight_grad = {params_grad.host(), size},
                    .bias_grad = {params_grad.host() + size, size},
                    .running_mean = {running_means_.host(), size},
                    .running_var = {running_variances_.host(), size},
                    .num_batches_tracked = {&batches, 1}});
    const ::dlib::tensor& x = sub.get_output();
    dx_.copy_size(x);
    layer_->backward(shaped(view(gradient_input)), shaped(view(x)), saved_, shaped(view(dx_)));
    ::dlib::tt::add(1, sub.get_gradient_input(), 1, dx_);  // other layers may have added theirs
  }

  const ::dlib::tensor& get_layer_params() const { return params_; }
  ::dlib::tensor& get_layer_params() { return params_; }

  // The fields of dlib's own layers, in their order.
  friend void serialize(const bn_& item, std::ostream& out) {
    using ::dlib::serialize;
    serialize(std::string(file_name), out);
    serialize(item.params_, out);
    serialize(item.gamma_, out);
    serialize(item.gamma_, out);
    serialize(::dlib::resizable_tensor(), out);
    serialize(::dlib::resizable_tensor(), out);
    serialize(item.running_means_, out);
    serialize(item.running_variances_, out);
    serialize(item.updates_, out);
    serialize(item.window_, out);
    for (const double value : {item.learning_rate_multiplier_, item.weight_decay_multiplier_,
                               item.bias_learning_rate_multiplier_, item.bias_weight_decay_multiplier_, item.eps_}) {
      serialize(value, out);
    }
  }
  friend void deserialize(bn_& item, std::istream& in) {
    using ::dlib::deserialize;
    std::string name;
    deserialize(name, in);
    if (name != file_name)
      throw ::dlib::serialization_error("expected a layer " + std::string(file_name) + ", found " + name);
    bn_ read;
    ::dlib::alias_tensor beta;
    ::dlib::resizable_tensor ignored;
    deserialize(read.params_, in);
    deserialize(read.gamma_, in);
    deserialize(beta, in);
    deserialize(ignored, in);
    deserialize(ignored, in);
    deserialize(read.running_means_, in);
    deserialize(read.running_variances_, in);
    deserialize(read.updates_, in);
    deserialize(read.window_, in);
    for (double* value : {&read.learning_rate_multiplier_, &read.weight_decay_multiplier_,
                          &read.bias_learning_rate_multiplier_, &read.bias_weight_decay_multiplier_, &read.eps_}) {
      deserialize(*value, in);
    }
    const std::size_t size = read.gamma_.size();
    if (read.params_.size() != 2 * size || beta.size() != size || read.running_means_.size() != size ||
        read.running_variances_.size() != size || read.window_ == 0) {
      throw ::dlib::serialization_error("a layer " + std::string(file_name) + " whose tensors do not fit together");
    }
    read.communicator_ = item.communicator_;
    read.training_ = item.training_;
    item = std::move(read);
  }
  friend std::ostream& operator<<(std::ostream& out, const bn_& item) {
    return out << "syncbn::" << (mode == ::dlib::CONV_MODE ? "bn_con" : "bn_fc") << "  eps=" << item.eps_
               << " running_stats_window_size=" << item.window_ << " ranks=" << item.communicator_.size();
  }
  friend void to_xml(const bn_& item, std::ostream& out) {
    const char* const tag = mode == ::dlib::CONV_MODE ? "bn_con" : "bn_fc";
    out << '<' << tag << " eps='" << item.eps_ << "' running_stats_window_size='" << item.window_ << "'>\n"
        << ::dlib::mat(item.params_) << "</" << tag << ">\n";
  }
  /// @endcond

 private:
  static constexpr const char* file_name = mode == ::dlib::CONV_MODE ? "bn_con2" : "bn_fc2";

  Index channels() const { return static_cast<Index>(gamma_.size()); }

  // As the layer sees it: (samples, k, nr, nc) or (samples, k * nr * nc).
  template <class T>
  static TensorView<T> shaped(const TensorView<T>& v) {
    if (mode == ::dlib::CONV_MODE) return v;
    return {v.data(), {v.extent(0), v.extent(1) * v.extent(2) * v.extent(3)}};
  }

  AnyCommunicator communicator_;
  std::optional<bool> training_;
  std::optional<Layer> layer_;
  typename Layer::Saved saved_;
  ::dlib::resizable_tensor params_, running_means_, running_variances_, dx_;
  ::dlib::alias_tensor gamma_;
  unsigned long updates_ = 0;
  unsigned long window_ = 0;
  double learning_rate_multiplier_ = 1, weight_decay_multiplier_ = 0;
  double bias_learning_rate_multiplier_ = 1, bias_weight_decay_multiplier_ = 1;
  double eps_;
};

/// @brief In place of `dlib::bn_con`. @tparam Subnet  what comes before.
template <class Subnet>
using bn_con = ::dlib::add_layer<bn_<::dlib::CONV_MODE>, Subnet>;
/// @brief In place of `dlib::bn_fc`. @tparam Subnet  what comes before.
template <class Subnet>
using bn_fc = ::dlib::add_layer<bn_<::dlib::FC_MODE>, Subnet>;

/// @brief Calls a function with each of these layers of a network, from the output to the input, whatever their mode.
/// @param net  of dlib, initialised or not. @param f  takes a bn_<mode>&.
template <class Net, class F>
void for_each_bn(Net& net, const F& f) {
  ::dlib::visit_computational_layers(net, [&](auto& layer) {
    if constexpr (requires { layer.set_communicator(AnyCommunicator()); }) f(layer);
  });
}

/// @brief Gives a network's layers a communicator. @param net  as for_each_bn(). @param communicator  the ranks; every rank
/// does the same.
template <class Net>
void synchronize(Net& net, const AnyCommunicator& communicator) {
  for_each_bn(net, [&](auto& layer) { layer.set_communicator(communicator); });
}
/// @brief Batches normalize from now on, and running statistics are updated. @param net  as for_each_bn().
template <class Net>
void train(Net& net) {
  for_each_bn(net, [](auto& layer) { layer.train(); });
}
/// @brief Running statistics normalize from now on: a rank can evaluate alone. @param net  as for_each_bn().
template <class Net>
void eval(Net& net) {
  for_each_bn(net, [](auto& layer) { layer.eval(); });
}
/// @brief What `dlib::set_all_bn_running_stats_window_sizes` does, which knows dlib's own layers alone.
/// @param net  as for_each_bn(). @param window  1 or more. @throws Error if it is 0.
template <class Net>
void set_all_bn_running_stats_window_sizes(Net& net, unsigned long window) {
  for_each_bn(net, [&](auto& layer) { layer.set_running_stats_window_size(window); });
}

}  // namespace dlib
}  // namespace syncbn::inline v0
