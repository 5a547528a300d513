// Eigen's matrices, (samples, channels), and its tensors of any rank.

#include <vector>

#include <syncbn/interop/eigen_tensor.hpp>
#include <syncbn/syncbn.hpp>

#include "compare.hpp"

int main() {
  std::srand(1);
  // [begin matrix]
  const Eigen::MatrixXf x = Eigen::MatrixXf::Random(32, 6);  // 32 samples with 6 channels
  Eigen::MatrixXf y(32, 6);
  syncbn::BatchNorm<1> bn(6, {.eps = 0});
  const auto saved = bn.forward(x, y);
  // [end matrix]
  const Eigen::RowVectorXf mean = y.colwise().mean(), deviation = (y.colwise().squaredNorm() / 32).cwiseSqrt();
  bool ok =
      example::agree("columns of y have mean 0", std::vector<float>(mean.begin(), mean.end()), std::vector<float>(6));
  ok &= example::agree("and deviation 1", std::vector<float>(deviation.begin(), deviation.end()),
                       std::vector<float>(6, 1), 32 * Eigen::NumTraits<float>::epsilon());

  // [begin tensor]
  Eigen::Tensor<double, 4, Eigen::RowMajor> images(8, 3, 5, 7), normalized(8, 3, 5, 7);  // (N, C, H, W)
  images.setRandom();
  syncbn::BatchNorm<2, syncbn::CpuBackend<double>> images_bn(3, {.eps = 0});
  static_cast<void>(images_bn.forward(images, normalized));
  // [end tensor]
  const Eigen::Tensor<double, 1, Eigen::RowMajor> squares = normalized.square().mean(Eigen::array<int, 3>{0, 2, 3});
  ok &= example::agree("images have variance 1", std::vector<double>(squares.data(), squares.data() + 3),
                       std::vector<double>(3, 1), 8 * 5 * 7 * Eigen::NumTraits<double>::epsilon());
  return ok ? 0 : 1;
}
