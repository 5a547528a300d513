#include "conformance/communicator_laws.hpp"

#include <chrono>
#include <concepts>

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

namespace {
// Templates: laws that do not apply must not be asked for at all.
template <class C>
void law_all_reduce_sum_on_the_host() {
  if constexpr (std::same_as<typename C::memory_space, syncbn::HostSpace>) {
    law_all_reduce_sum<C>();
  } else {
    SUCCEED("its frames are a device's");
  }
}
template <class C>
void law_split_if_it_can() {
  if constexpr (syncbn::splittable<C>) {
    law_split<C>();
  } else {
    SUCCEED("it cannot split");
  }
}
template <class C>
void law_ordinals_if_it_has_them() {
  if constexpr (syncbn::numbers_layers<C> && !syncbn::always_alone<C>) {
    law_ordinals<C>();
  } else {
    SUCCEED("it does not number layers");
  }
}
template <class C>
void law_deadline_if_it_has_one() {
  constexpr bool has_one = requires(C& c) { c.set_timeout(std::chrono::milliseconds(1)); };
  if constexpr (has_one && C::errors == syncbn::ErrorModel::immediate && outlives_faults<C>) {
    law_deadline<C>();
  } else {
    SUCCEED("it has no set_timeout(), tells errors later, or its processes could not end after one");
  }
}
}  // namespace
TEST_CASE("communicator: all_reduce_sum", "[communicator]") { law_all_reduce_sum_on_the_host<Communicator>(); }
TEST_CASE("communicator: split by color and key", "[communicator]") { law_split_if_it_can<Communicator>(); }
TEST_CASE("communicator: layers are numbered", "[communicator]") { law_ordinals_if_it_has_them<Communicator>(); }
TEST_CASE("communicator: a rank that does not come is an error", "[communicator]") {
  law_deadline_if_it_has_one<Communicator>();
}
