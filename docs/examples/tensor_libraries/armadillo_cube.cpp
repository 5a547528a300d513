// Armadillo's cubes and matrices.

#include <armadillo>
#include <limits>
#include <vector>

#include <syncbn/syncbn.hpp>

#include "../compare.hpp"

// [begin tensor_traits]
// A cube is a batch of signals: each slice is a sample, each column a channel, and a column's rows follow each other in
// memory. A matrix is a batch of vectors: each column a sample, each row a channel.
template <class Element>
struct syncbn::tensor_traits<arma::Cube<Element>> {
  static auto view(arma::Cube<Element>& cube) { return view_of(cube.memptr(), cube); }
  static auto view(const arma::Cube<Element>& cube) { return view_of(cube.memptr(), cube); }

 private:
  template <class MaybeConst>
  static TensorView<MaybeConst> view_of(MaybeConst* data, const arma::Cube<Element>& cube) {
    return TensorView<MaybeConst>(
        data, {static_cast<Index>(cube.n_slices), static_cast<Index>(cube.n_cols), static_cast<Index>(cube.n_rows)});
  }
};

template <class Element>
struct syncbn::tensor_traits<arma::Mat<Element>> {
  static auto view(arma::Mat<Element>& m) { return view_of(m.memptr(), m); }
  static auto view(const arma::Mat<Element>& m) { return view_of(m.memptr(), m); }

 private:
  template <class MaybeConst>
  static TensorView<MaybeConst> view_of(MaybeConst* data, const arma::Mat<Element>& m) {
    return TensorView<MaybeConst>(data, {static_cast<Index>(m.n_cols), static_cast<Index>(m.n_rows)});
  }
};
static_assert(syncbn::check_tensor<arma::Cube<float>>());
static_assert(syncbn::check_tensor<arma::mat>());
// [end tensor_traits]

int main() {
  arma::arma_rng::set_seed(1);
  // [begin use]
  const arma::fcube x(50, 6, 8, arma::fill::randn);  // 8 samples with 6 channels of 50 values
  arma::fcube y(arma::size(x));
  syncbn::BatchNorm<1> bn(6, {.eps = 0});
  const auto saved = bn.forward(x, y);
  // [end use]

  const arma::frowvec mean = arma::mean(arma::mean(x, 0), 2);
  const std::vector<double> by_armadillo(mean.begin(), mean.end());
  const auto by_us = saved.statistics.mean();
  bool ok = example::agree("the means of channels", std::vector<double>(by_us, by_us + 6), by_armadillo);
  std::vector<float> variances;
  for (arma::uword c = 0; c < y.n_cols; ++c) {
    const arma::fmat channel(y.col(c));
    variances.push_back(arma::var(arma::vectorise(channel), 1));
  }
  // Armadillo adds 400 floats.
  constexpr double rounding = std::numeric_limits<float>::epsilon();
  ok &= example::agree("each channel of y has variance 1", variances, std::vector<double>(6, 1), 400 * rounding);

  const arma::mat samples(5, 40, arma::fill::randn);
  arma::mat normalized(arma::size(samples));
  syncbn::BatchNorm<1, syncbn::CpuBackend<double>> vectors(5, {.eps = 0});
  static_cast<void>(vectors.forward(samples, normalized));
  const arma::colvec deviations = arma::stddev(normalized, 1, 1);
  ok &= example::agree("rows of matrices", std::vector<double>(deviations.begin(), deviations.end()),
                       std::vector<double>(5, 1), arma::datum::eps * 40);
  return ok ? 0 : 1;
}
