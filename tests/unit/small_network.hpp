#pragma once

#include <cstddef>
#include <functional>
#include <utility>
#include <vector>

#include "support/activations.hpp"
#include "support/values.hpp"

// Just enough of a network around a layer to replay upstream's training tests: linear and convolution layers without bias,
// softmax, squared error, stochastic gradient descent. All in the elements' own type, as upstream does it.

namespace syncbn_test {

/// @brief A matrix of numbers, row by row.
template <class T>
struct Matrix {
  std::size_t rows = 0, columns = 0;
  std::vector<T> at;

  Matrix() = default;
  Matrix(std::size_t row_count, std::size_t column_count)
      : rows(row_count), columns(column_count), at(row_count * column_count) {}
  Matrix(std::size_t row_count, std::size_t column_count, std::uint64_t seed) : Matrix(row_count, column_count) {
    const Numbers numbers = values(at.size(), seed);
    for (std::size_t i = 0; i < at.size(); ++i) at[i] = static_cast<T>(numbers[i]);
  }
  T& operator()(std::size_t r, std::size_t c) { return at[r * columns + c]; }
  const T& operator()(std::size_t r, std::size_t c) const { return at[r * columns + c]; }

  /// Rows [first, last).
  Matrix slice(std::size_t first, std::size_t last) const {
    Matrix result(last - first, columns);
    for (std::size_t i = 0; i < result.at.size(); ++i) result.at[i] = at[first * columns + i];
    return result;
  }
  syncbn::TensorView<T> view(const std::vector<Index>& extents) { return {at.data(), extents}; }
};

/// @brief y = x * weight^T. Gradients add up.
template <class T>
struct Linear {
  Matrix<T> weight, gradient;  // (outputs, inputs)

  Linear(std::size_t inputs, std::size_t outputs, std::uint64_t seed)
      : weight(outputs, inputs, seed), gradient(outputs, inputs) {}

  Matrix<T> forward(const Matrix<T>& x) const {
    Matrix<T> y(x.rows, weight.rows);
    for (std::size_t n = 0; n < x.rows; ++n) {
      for (std::size_t o = 0; o < weight.rows; ++o) {
        for (std::size_t i = 0; i < weight.columns; ++i) y(n, o) += x(n, i) * weight(o, i);
      }
    }
    return y;
  }
  Matrix<T> backward(const Matrix<T>& x, const Matrix<T>& dy) {
    Matrix<T> dx(x.rows, x.columns);
    for (std::size_t n = 0; n < x.rows; ++n) {
      for (std::size_t o = 0; o < weight.rows; ++o) {
        for (std::size_t i = 0; i < weight.columns; ++i) {
          dx(n, i) += dy(n, o) * weight(o, i);
          gradient(o, i) += dy(n, o) * x(n, i);
        }
      }
    }
    return dx;
  }
};

/// @brief 3 x 3 convolution without padding of (N, I, H, W) into (N, O, H - 2, W - 2).
template <class T>
struct Convolution {
  std::size_t inputs, outputs, height, width;  // of the input
  Matrix<T> weight, gradient;                  // (outputs, inputs * 9)

  Convolution(std::size_t input_channels, std::size_t output_channels, std::size_t rows, std::size_t columns,
              std::uint64_t seed)
      : inputs(input_channels),
        outputs(output_channels),
        height(rows),
        width(columns),
        weight(outputs, inputs * 9, seed),
        gradient(outputs, inputs * 9) {}

  std::size_t output_size() const { return outputs * (height - 2) * (width - 2); }

  Matrix<T> forward(const Matrix<T>& x) const {
    Matrix<T> y(x.rows, output_size());
    for_each_product(x.rows, [&](std::size_t n, std::size_t from, std::size_t to, std::size_t o, std::size_t w) {
      y(n, to) += x(n, from) * weight(o, w);
    });
    return y;
  }
  void backward(const Matrix<T>& x, const Matrix<T>& dy) {
    for_each_product(x.rows, [&](std::size_t n, std::size_t from, std::size_t to, std::size_t o, std::size_t w) {
      gradient(o, w) += dy(n, to) * x(n, from);
    });
  }

 private:
  template <class F>
  void for_each_product(std::size_t samples, const F& f) const {
    for (std::size_t n = 0; n < samples; ++n) {
      for (std::size_t o = 0; o < outputs; ++o) {
        for (std::size_t i = 0; i < inputs; ++i) {
          for (std::size_t r = 0; r + 2 < height; ++r) {
            for (std::size_t c = 0; c + 2 < width; ++c) {
              for (std::size_t k = 0; k < 9; ++k) {
                f(n, (i * height + r + k / 3) * width + c + k % 3, (o * (height - 2) + r) * (width - 2) + c, o,
                  i * 9 + k);
              }
            }
          }
        }
      }
    }
  }
};

/// @brief Of each row.
template <class T>
Matrix<T> softmax(const Matrix<T>& x) {
  Matrix<T> y = x;
  for (std::size_t n = 0; n < x.rows; ++n) {
    T sum = 0;
    for (std::size_t c = 0; c < x.columns; ++c) sum += y(n, c) = std::exp(x(n, c));
    for (std::size_t c = 0; c < x.columns; ++c) y(n, c) /= sum;
  }
  return y;
}
template <class T>
Matrix<T> softmax_backward(const Matrix<T>& y, const Matrix<T>& dy) {
  Matrix<T> dx = y;
  for (std::size_t n = 0; n < y.rows; ++n) {
    T sum = 0;
    for (std::size_t c = 0; c < y.columns; ++c) sum += y(n, c) * dy(n, c);
    for (std::size_t c = 0; c < y.columns; ++c) dx(n, c) = y(n, c) * (dy(n, c) - sum);
  }
  return dx;
}

/// @brief The gradient of the mean of (y - target)^2 over all elements. @param factor  of that mean.
template <class T>
Matrix<T> squared_error_backward(const Matrix<T>& y, const Matrix<T>& target, T factor = 1) {
  Matrix<T> dy = y;
  for (std::size_t i = 0; i < y.at.size(); ++i) {
    dy.at[i] = factor * 2 * (y.at[i] - target.at[i]) / static_cast<T>(y.at.size());
  }
  return dy;
}

}  // namespace syncbn_test
