#include "conformance/backend_laws.hpp"

#include <tuple>

#include "conformance/formats.hpp"
#include "plug_under_test.hpp"

using namespace syncbn_test;
using Backend = syncbn_test::BackendUnderTest;

TEST_CASE("backend: memory", "[backend]") { law_memory<Backend>(); }

TEMPLATE_LIST_TEST_CASE("backend: moments", "[backend]", formats_of<Backend>) { law_moments<Backend, TestType>(); }
TEMPLATE_LIST_TEST_CASE("backend: moments add up", "[backend]", formats_of<Backend>) {
  law_moments_add_up<Backend, TestType>();
}
TEMPLATE_LIST_TEST_CASE("backend: channels are apart", "[backend]", formats_of<Backend>) {
  law_channels_are_apart<Backend, TestType>();
}
TEMPLATE_LIST_TEST_CASE("backend: gradient sums", "[backend]", formats_of<Backend>) {
  law_gradient_sums<Backend, TestType>();
}
TEMPLATE_LIST_TEST_CASE("backend: gradient sums add up", "[backend]", formats_of<Backend>) {
  law_gradient_sums_add_up<Backend, TestType>();
}
TEMPLATE_LIST_TEST_CASE("backend: normalize", "[backend]", formats_of<Backend>) { law_normalize<Backend, TestType>(); }
TEMPLATE_LIST_TEST_CASE("backend: propagate", "[backend]", formats_of<Backend>) { law_propagate<Backend, TestType>(); }
TEMPLATE_LIST_TEST_CASE("backend: inputs that stand still", "[backend]", formats_of<Backend>) {
  law_broadcast<Backend, TestType>();
}
TEMPLATE_LIST_TEST_CASE("backend: copies are independent", "[backend]", formats_of<Backend>) {
  law_copies_are_independent<Backend, TestType>();
}
TEST_CASE("backend: passes of a layer are apart", "[backend]") {
  law_passes_of_a_layer<Backend, std::tuple_element_t<0, formats_of<Backend>>>();
}
