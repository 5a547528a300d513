// A backend that cannot normalize.
// expect: backend: lacks  void normalize(TensorView<const T, memory_space> x, F coefficients_of, TensorView<T, memory_space> y) const
// expect: normalizes
#include <vector>

#include <syncbn/core.hpp>

struct Device {
  using memory_space = syncbn::HostSpace;
  using queue_type = syncbn::HostQueue;
  using parameter_type = double;
  template <class T>
  using buffer = std::vector<T>;

  queue_type& queue() noexcept;
  static constexpr bool accepts(syncbn::ScalarKind kind) { return kind == syncbn::ScalarKind::f64; }
  template <class T>
  void download(const T* from, syncbn::Index n, T* to) const;
  template <class T>
  void upload(const T* from, syncbn::Index n, T* to) const;
  template <class F>
  void for_each_channel(syncbn::Index channels, F f) const;
  void accumulate(syncbn::TensorView<const double> x, syncbn::MomentsPointers moments);
  void accumulate(syncbn::TensorView<const double> dy, syncbn::TensorView<const double> x, const double* mean,
                  syncbn::GradientSumsPointers sums);
#ifndef SYNCBN_MISTAKE
  template <class CoefficientsOf>
  void normalize(syncbn::TensorView<const double> x, CoefficientsOf coefficients_of,
                 syncbn::TensorView<double> y) const;
#endif
  template <class CoefficientsOf>
  void propagate(syncbn::TensorView<const double> dy, syncbn::TensorView<const double> x,
                 CoefficientsOf coefficients_of, syncbn::TensorView<double> dx) const;
};

using Layer = syncbn::BatchNorm<2, Device>;

syncbn::Index channels(const Layer& bn) { return bn.channels(); }
