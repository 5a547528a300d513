// Boost.MultiArray: arrays, references to memory and views, in any storage order, with indices that begin anywhere.

#include <array>
#include <concepts>
#include <type_traits>
#include <vector>

#include <boost/multi_array.hpp>

#include <syncbn/syncbn.hpp>

#include "../compare.hpp"

// [begin tensor_traits]
template <class T>
concept boost_multi_array = requires(T& t) {
  { T::dimensionality } -> std::convertible_to<std::size_t>;
  t.origin();
  t.shape();
  t.strides();
  t.index_bases();
};

namespace syncbn {  // opened, since g++ 12 does not look in here from constrained specialisations outside

template <boost_multi_array T>
struct tensor_traits<T> {
  static auto view(T& t) { return view_of(t.origin(), t); }
  static auto view(const T& t) { return view_of(t.origin(), t); }

 private:
  // The origin is where index 0 of each dimension would be: not the first element, if indices begin elsewhere.
  template <class MaybeConst>
  static TensorView<MaybeConst> view_of(MaybeConst* first, const T& t) {
    std::array<Index, T::dimensionality> extents{}, strides{};
    for (std::size_t d = 0; d < T::dimensionality; ++d) {
      extents[d] = static_cast<Index>(t.shape()[d]);
      strides[d] = t.strides()[d];
      first += t.index_bases()[d] * t.strides()[d];
    }
    return TensorView<MaybeConst>(first, std::span<const Index>(extents), std::span<const Index>(strides));
  }
};

}  // namespace syncbn
static_assert(syncbn::check_tensor<boost::multi_array<float, 4>>());
// [end tensor_traits]

int main() {
  using Array = boost::multi_array<float, 3>;
  const std::vector<float> values = example::numbers(6 * 4 * 10, 1);
  std::vector<float> expected(values.size());
  const syncbn::TensorView<const float> plain(values.data(), {6, 4, 10});
  syncbn::BatchNorm<1> same(4);
  static_cast<void>(same.forward(plain, syncbn::TensorView<float>(expected.data(), {6, 4, 10})));

  // [begin use]
  Array x(boost::extents[6][4][10]);
  Array y(boost::extents[6][4][10], boost::fortran_storage_order());
  x.assign(values.begin(), values.end());
  syncbn::BatchNorm<1> bn(4);
  const auto saved = bn.forward(x, y);
  // [end use]
  const auto in_order = [](const auto& a, Array::index base = 0) {
    std::vector<float> result;
    for (Array::index i = 0; i < 6; ++i) {
      for (Array::index j = 0; j < 4; ++j) {
        for (Array::index k = 0; k < 10; ++k) result.push_back(a[base + i][base + j][base + k]);
      }
    }
    return result;
  };
  bool ok = example::agree("from C's order to Fortran's", in_order(y), expected);

  // Indices from 1, the last dimension stored backwards.
  const std::array<Array::size_type, 3> order{2, 1, 0};
  const std::array<bool, 3> ascending{true, true, false};
  Array from_one(boost::extents[Array::extent_range(1, 7)][Array::extent_range(1, 5)][Array::extent_range(1, 11)],
                 boost::general_storage_order<3>(order.begin(), ascending.begin()));
  bn.backward(plain, plain, saved, from_one);
  Array dx(boost::extents[6][4][10]);
  bn.backward(x, x, saved, dx);
  ok &= example::agree("indices from 1, stored backwards", in_order(from_one, 1), in_order(dx));

  // Every other sample of the first half of the channels.
  using Range = Array::index_range;
  auto part = x[boost::indices[Range(0, 6, 2)][Range(0, 2)][Range()]];
  const float kept = x[1][0][0];
  syncbn::BatchNorm<1> of_part(2);
  static_cast<void>(of_part.forward(part, part));
  const auto v = syncbn::view(part);
  ok &= example::holds("a view is its elements", &v(2, 1, 9) == &x[4][1][9] && v.size() == 60 && x[1][0][0] == kept);
  return ok ? 0 : 1;
}
