// OpenCV's matrices, whose channels are interleaved and whose element type is known at run time only.

#include <array>
#include <stdexcept>
#include <vector>

#include <opencv2/core.hpp>

#include <syncbn/syncbn.hpp>

#include "../compare.hpp"

// [begin tensor_traits]
// A matrix of float elements with any number of channels: rows x columns are one image, and matrices of three or more
// dimensions a batch (N, H, W, ...). Headers of matrices are handles, so a const one may be written to, as in OpenCV.
template <>
struct syncbn::tensor_traits<cv::Mat> {
  static TensorView<float> view(const cv::Mat& m) {
    if (m.depth() != CV_32F) throw Error("expected a matrix of CV_32F but got " + cv::typeToString(m.type()));
    if (m.dims >= max_rank) throw ShapeError("a matrix of too many dimensions");
    const bool one_image = m.dims <= 2;
    const auto spatial = static_cast<std::size_t>(one_image ? 2 : m.dims - 1);
    std::array<Index, max_rank> extents{1, m.channels()}, strides{static_cast<Index>(m.total()) * m.channels(), 1};
    if (!one_image) {
      extents[0] = m.size[0];
      strides[0] = step(m, 0);
    }
    for (std::size_t s = 0; s < spatial; ++s) {
      const int d = static_cast<int>(s) + (one_image ? 0 : 1);
      extents[2 + s] = m.size[d];
      strides[2 + s] = step(m, d);
    }
    return TensorView<float>(reinterpret_cast<float*>(m.data), {extents.data(), 2 + spatial},
                             {strides.data(), 2 + spatial});
  }

 private:
  // OpenCV counts bytes.
  static Index step(const cv::Mat& m, int d) {
    if (m.step[d] % sizeof(float) != 0) throw Error("a matrix whose rows are not a whole number of elements apart");
    return static_cast<Index>(m.step[d] / sizeof(float));
  }
};
static_assert(syncbn::check_tensor<cv::Mat>());
// [end tensor_traits]

int main() {
  const std::vector<float> numbers = example::numbers(4 * 12 * 16 * 3, 1);
  std::vector<float> values = numbers, expected(values.size());
  const int sizes[] = {4, 12, 16};
  cv::Mat x(3, sizes, CV_32FC3, values.data());
  cv::Mat y(3, sizes, CV_32FC3);

  // [begin use]
  syncbn::BatchNorm<2> bn(3);           // x: 4 images of 12 x 16 pixels with 3 channels
  const auto saved = bn.forward(x, y);  // one plane of statistics per channel, no conversion to NCHW
  // [end use]

  syncbn::BatchNorm<2> same(3);
  const auto nhwc = [](float* data) { return syncbn::TensorView<float>::channels_last(data, {4, 3, 12, 16}); };
  static_cast<void>(same.forward(nhwc(values.data()), nhwc(expected.data())));
  bool ok =
      example::agree("a batch of images", std::vector<float>(y.ptr<float>(), y.ptr<float>() + y.total() * 3), expected);

  // A region of one image, where it is: what is around it stays.
  cv::Mat image(20, 30, CV_32FC2, cv::Scalar(7, 7));
  cv::Mat region = image(cv::Rect(5, 3, 16, 8));
  cv::randu(region, cv::Scalar(-3, -3), cv::Scalar(3, 3));
  const cv::Mat before = region.clone();
  cv::Mat copy(8, 16, CV_32FC2);
  syncbn::BatchNorm<2> in_place(2), apart(2);
  static_cast<void>(in_place.forward(region, region));
  static_cast<void>(apart.forward(before, copy));
  ok &= example::holds("a region of an image, in place", cv::norm(region, copy, cv::NORM_INF) == 0);
  ok &= example::holds("around it nothing changed",
                       image.at<cv::Vec2f>(2, 5)[0] == 7 && image.at<cv::Vec2f>(11, 5)[0] == 7 &&
                           image.at<cv::Vec2f>(3, 4)[0] == 7 && image.at<cv::Vec2f>(3, 21)[1] == 7);
  bool thrown = false;
  try {
    bn.infer(cv::Mat(2, 2, CV_64FC3), cv::Mat(2, 2, CV_64FC3));
  } catch (const syncbn::Error&) {
    thrown = true;
  }
  ok &= example::holds("elements of another type are refused", thrown);
  return ok ? 0 : 1;
}
