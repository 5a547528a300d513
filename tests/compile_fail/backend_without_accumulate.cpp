// A backend that cannot sum.
// expect: backend: lacks  void accumulate(TensorView<const T, memory_space> x, MomentsPointers)
// expect: accumulates_moments
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
#ifndef SYNCBN_MISTAKE
  void accumulate(syncbn::TensorView<const double> x, syncbn::MomentsPointers moments);
#endif
  void accumulate(syncbn::TensorView<const double> dy, syncbn::TensorView<const double> x, const double* mean,
                  syncbn::GradientSumsPointers sums);
  template <class CoefficientsOf>
  void normalize(syncbn::TensorView<const double> x, CoefficientsOf coefficients_of,
                 syncbn::TensorView<double> y) const;
  template <class CoefficientsOf>
  void propagate(syncbn::TensorView<const double> dy, syncbn::TensorView<const double> x,
                 CoefficientsOf coefficients_of, syncbn::TensorView<double> dx) const;
};

using Layer = syncbn::BatchNorm<2, Device>;

syncbn::Index channels(const Layer& bn) { return bn.channels(); }
