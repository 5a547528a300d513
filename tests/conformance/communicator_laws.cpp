#include "conformance/communicator_laws.hpp"

#include "plug_under_test.hpp"

using namespace syncbn_test;
using Communicator = syncbn_test::CommunicatorUnderTest;

TEST_CASE("communicator: ranks know their group", "[communicator]") { law_group<Communicator>(); }
TEST_CASE("communicator: frames have the size asked for", "[communicator]") { law_frame_sizes<Communicator>(); }
TEST_CASE("communicator: integers add up exactly", "[communicator]") { law_integers<Communicator>(); }
TEST_CASE("communicator: sums have the same bits on every rank", "[communicator]") { law_doubles<Communicator>(); }
TEST_CASE("communicator: words do not touch each other", "[communicator]") { law_words_are_apart<Communicator>(); }
TEST_CASE("communicator: frames in flight finish in any order", "[communicator]") {
  law_frames_in_flight<Communicator>();
}
TEST_CASE("communicator: poll never waits", "[communicator]") { law_poll<Communicator>(); }
TEST_CASE("communicator: abandoned frames do no harm", "[communicator]") { law_abandoned_frames<Communicator>(); }
TEST_CASE("communicator: copies are handles", "[communicator]") { law_copies<Communicator>(); }
TEST_CASE("communicator: all_reduce_sum", "[communicator]") { law_all_reduce_sum<Communicator>(); }

namespace {
// A template: of a communicator that cannot split, law_split must not be asked for at all.
template <class C>
void law_split_if_it_can() {
  if constexpr (syncbn::splittable<C>) {
    law_split<C>();
  } else {
    SUCCEED("it cannot split");
  }
}
}  // namespace
TEST_CASE("communicator: split by color and key", "[communicator]") { law_split_if_it_can<Communicator>(); }
