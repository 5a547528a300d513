#include <syncbn/statistics.hpp>

#include <string>
#include <utility>

#include <syncbn/syncbn.hpp>

#include "support/activations.hpp"
#include "support/catch.hpp"
#include "support/thrown_by.hpp"
#include "support/values.hpp"

using namespace syncbn_test;

namespace {

using Backend = syncbn::CpuBackend<>;

template <class Owner>
void check_moves_all_away(Owner owner) {
  REQUIRE(owner.channels() == 3);
  Owner other(std::move(owner));
  CHECK(other.channels() == 3);
  CHECK(owner.channels() == 0);  // NOLINT(bugprone-use-after-move): that is the point
  owner = std::move(other);
  CHECK(owner.channels() == 3);
  CHECK(other.channels() == 0);  // NOLINT(bugprone-use-after-move)
}

}  // namespace

TEST_CASE("what owns numbers of channels has none left when it was moved from", "[statistics]") {
  check_moves_all_away(syncbn::Moments<Backend>(3));
  check_moves_all_away(syncbn::Statistics<Backend>(3));
  check_moves_all_away(syncbn::GradientSums<Backend>(3));
}

TEST_CASE("sums that were moved away are made room for again", "[statistics]") {
  Backend backend;
  syncbn::Exchange<syncbn::SingleProcessCommunicator> exchange{{}};
  syncbn::Moments<Backend> local(3), global(3);
  const syncbn::Moments<Backend> kept(std::move(global));
  const Activations<float> x({4, 3}, values(12, 1));
  accumulate(backend, x.view(), local);
  syncbn::ExchangeCall call;
  call.channels = 3;
  syncbn::RankFailure failure;
  begin_exchange(exchange, backend, call, 4, failure);
  start_exchange(exchange, backend, local);
  CHECK(finish_exchange(exchange, backend, local, global) == 4);
  CHECK(global.channels() == 3);
}

TEST_CASE("what a forward pass saved cannot be used once it was moved away", "[statistics]") {
  syncbn::BatchNorm<1> bn(3);
  const Activations<float> x({4, 3}, values(12, 1));
  Activations<float> y(x.extents());
  auto saved = bn.forward(x, y);
  const auto kept = std::move(saved);
  CHECK(thrown_by([&] { bn.backward(x, x, saved, y); }).find("ShapeError: ") == 0);  // NOLINT(bugprone-use-after-move)
  bn.backward(x, x, kept, y);
}
