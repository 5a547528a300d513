// Every kernel once, its blocks on several operating-system threads: for the race detector, which takes blocks for
// unordered then. Elsewhere, that they are right so, too.

#include <utility>
#include <vector>

#include <syncbn/backends/cuda_backend.cuh>
#include <syncbn/backends/nccl_communicator.hpp>
#include <syncbn/core.hpp>

#include "conformance/backend_laws.hpp"
#include "options.hpp"
#include "support/catch.hpp"
#include "support/thread_ranks.hpp"

using namespace syncbn_test;
using Backend = syncbn::CudaBackend<float>;

namespace {

struct Workers {
  unsigned before = std::exchange(cuda_emulation::options().workers, 3U);
  ~Workers() { cuda_emulation::options().workers = before; }
};

template <class T>
void check_step(const std::vector<Index>& extents, Placement placement) {
  const Workers workers;
  Backend backend;
  const std::vector<T> x = law_elements<T>(extents, 1);
  const BackendTensor<Backend, T> input(backend, extents, placement, x);
  BackendTensor<Backend, T> y(backend, extents, placement);
  syncbn::Moments<Backend> moments, added(extents[1]);
  syncbn::Statistics<Backend> statistics;
  syncbn::GradientSums<Backend> sums;
  syncbn::GradientCoefficients<Backend> coefficients;
  normalize_alone(backend, input.read(), 1e-5, moments, statistics, {}, {}, y.view());
  propagate_alone(backend, input.read(), input.read(), statistics, sums, coefficients, {}, y.view());
  accumulate(backend, input.read(), added);
  const auto facts = syncbn_test::detail::facts_of(numbers_of(x), shape_of(extents));
  CHECK(syncbn_test::detail::compare(syncbn_test::detail::on_host(backend, moments), facts).worst() <= 1);
  CHECK(syncbn_test::detail::compare(syncbn_test::detail::on_host(backend, added), facts).worst() <= 1);
  const std::vector<double> mean = from_backend(backend, std::as_const(statistics).mean(), extents[1]);
  CHECK(syncbn_test::detail::compare(syncbn_test::detail::on_host(backend, sums), extents, numbers_of(x), numbers_of(x),
                                     mean)
            .worst() <= 1);
}

}  // namespace

TEST_CASE("cuda: no races where channels stay on the chip", "[cuda]") {
  check_step<float>({2, 3, 7, 5}, Placement::rows);
  check_step<float>({20, 24}, Placement::rows);
  check_step<syncbn::BFloat16>({20, 19}, Placement::rows);
}

TEST_CASE("cuda: no races where blocks share a channel", "[cuda]") {
  check_step<float>({1, 1, 20001}, Placement::rows);
  check_step<float>({5000, 4}, Placement::rows);
}

TEST_CASE("cuda: no races in an exchange that nobody waits for", "[cuda]") {
  const Workers workers;
  cuda_emulation::options().asynchronous = true;  // ranks wait for each other in their streams
  const std::vector<Index> extents{8, 300};
  const std::vector<float> x = law_elements<float>(extents, 1);
  const auto facts = syncbn_test::detail::facts_of(numbers_of(x), shape_of(extents));
  const std::vector<double> worst = on_thread_ranks(2, [&](syncbn::ThreadCommunicator spread) {
    syncbn::cuda::check(cudaSetDevice(spread.rank()), "cudaSetDevice");
    const syncbn::detail::CudaStream stream;
    Backend backend(stream.get());
    syncbn::Exchange exchange(syncbn::NcclCommunicator::create(spread, rank_timeout));
    // A half of the batch each.
    const Index samples = extents[0] / 2;
    const auto first = x.begin() + static_cast<std::ptrdiff_t>(spread.rank() * samples * extents[1]);
    const std::vector<float> mine(first, first + static_cast<std::ptrdiff_t>(samples * extents[1]));
    const BackendTensor<Backend, float> input(backend, {samples, extents[1]}, Placement::rows, mine);
    syncbn::Moments<Backend> local(extents[1]), global(extents[1]);
    accumulate(backend, input.read(), local);
    syncbn::ExchangeCall call;
    call.operation = "forward";
    call.channels = extents[1];
    syncbn::RankFailure failure;
    begin_exchange(exchange, backend, call, static_cast<double>(samples), failure);
    start_exchange(exchange, backend, local);
    finish_exchange(exchange, backend, local, global);
    exchange.synchronize(backend.queue());
    return static_cast<double>(
        syncbn_test::detail::compare(syncbn_test::detail::on_host(backend, global), facts).worst());
  });
  cuda_emulation::options().asynchronous = false;
  CHECK(worst[0] <= 1);
  CHECK(worst[1] <= 1);
}
