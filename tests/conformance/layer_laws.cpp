#include "conformance/layer_laws.hpp"

#include <tuple>

#include "conformance/formats.hpp"
#include "plug_under_test.hpp"

using namespace syncbn_test;
using Backend = syncbn_test::BackendUnderTest;
using Communicator = syncbn_test::CommunicatorUnderTest;
using Parameter = Backend::parameter_type;

namespace {

using Index = syncbn::Index;

// A combination of Dims and element format.
template <std::size_t Dims, class T>
struct Case {
  static constexpr std::size_t dims = Dims;
  using Element = T;
};

template <class T>
using with_all_dims = std::tuple<Case<1, T>, Case<2, T>, Case<3, T>, Case<syncbn::any_dims, T>>;

template <class Formats>
struct AllCases;
template <class... T>
struct AllCases<std::tuple<T...>> {
  using product = decltype(std::tuple_cat(std::declval<with_all_dims<T>>()...));
  using Formats = std::tuple<T..., T..., T..., T...>;  // of four at least
  // Every format and every Dims once.
  using selection =
      std::tuple<Case<1, std::tuple_element_t<0, Formats>>, Case<2, std::tuple_element_t<1, Formats>>,
                 Case<3, std::tuple_element_t<2, Formats>>, Case<syncbn::any_dims, std::tuple_element_t<3, Formats>>>;
  using type = std::conditional_t<full_products, product, selection>;
};

using Cases = AllCases<formats_of<Backend>>::type;

}  // namespace

TEMPLATE_LIST_TEST_CASE("layer: a step equals the oracle's", "[layer]", Cases) {
  law_step_equals_oracle<Backend, Communicator, TestType::dims, typename TestType::Element>();
}
TEMPLATE_LIST_TEST_CASE("layer: splits do not matter", "[layer]", Cases) {
  law_splits_do_not_matter<Backend, Communicator, TestType::dims, typename TestType::Element>();
}
TEMPLATE_LIST_TEST_CASE("layer: an empty batch changes nothing", "[layer]", Cases) {
  law_empty_batch_changes_nothing<Backend, Communicator, TestType::dims, typename TestType::Element>();
}
TEMPLATE_LIST_TEST_CASE("layer: micro-batches are one batch", "[layer]", Cases) {
  // A communicator that is always alone may have no frames for the backend: there is no exchange to be split then.
  if constexpr (syncbn::has_frames_for<Communicator, Backend>) {
    law_micro_batches_are_one_batch<Backend, Communicator, TestType::dims, typename TestType::Element>();
  } else {
    SUCCEED("no exchange that could be split");
  }
}

TEST_CASE("layer: dx is the gradient of the sum of all ranks' losses", "[layer]") {
  if constexpr (Backend::accepts(syncbn::ScalarKind::f64)) {
    law_gradient_is_of_all_losses<Backend, Communicator, 2>();
  } else {
    SUCCEED("differences of f32 say little");
  }
}
TEST_CASE("layer: evaluation is local", "[layer]") { law_evaluation_is_local<Backend, Communicator, Parameter>(); }
TEST_CASE("layer: frames are as documented", "[layer]") {
  law_frames_are_as_documented<Backend, Communicator, Parameter>();
}
TEST_CASE("layer: a single value is an error on all ranks", "[layer]") {
  law_single_value_is_an_error<Backend, Communicator, Parameter>();
}
TEST_CASE("layer: ranks agree on errors", "[layer]") { law_ranks_agree_on_errors<Backend, Communicator, Parameter>(); }
