#include <syncbn/print.hpp>

#include <limits>
#include <optional>
#include <sstream>
#include <string>

#include <syncbn/lazy.hpp>
#include <syncbn/syncbn.hpp>

#include "support/catch.hpp"

namespace {

template <std::size_t Dims, class Communicator = syncbn::SingleProcessCommunicator>
using Layer = syncbn::BatchNorm<Dims, syncbn::CpuBackend<>, Communicator>;
template <std::size_t Dims, class Communicator = syncbn::SingleProcessCommunicator>
using Lazy = syncbn::LazyBatchNorm<Dims, syncbn::CpuBackend<>, Communicator>;

}  // namespace

TEST_CASE("a layer prints as in Python", "[print]") {
  const std::string defaults = "(3, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)";
  CHECK(to_string(Layer<1>(3)) == "BatchNorm1d" + defaults);
  CHECK(to_string(Layer<2>(3)) == "BatchNorm2d" + defaults);
  CHECK(to_string(Layer<3>(3)) == "BatchNorm3d" + defaults);
  CHECK(to_string(Layer<syncbn::any_dims>(3)) == "BatchNorm" + defaults);
  // PyTorch has no synchronized layer of fixed dimensions.
  const auto group = syncbn::ThreadCommunicator::create(1);
  CHECK(to_string(Layer<2, syncbn::ThreadCommunicator>(3, {}, group[0])) == "SyncBatchNorm" + defaults);
  CHECK(to_string(Layer<syncbn::any_dims, syncbn::ThreadCommunicator>(3, {}, group[0])) == "SyncBatchNorm" + defaults);
  CHECK(to_string(syncbn::BatchNorm<1, syncbn::CpuBackend<double>>(3)) == "BatchNorm1d" + defaults);
  CHECK(to_string(Layer<1>(0, {.eps = 1, .momentum = std::nullopt, .affine = false, .track_running_stats = false})) ==
        "BatchNorm1d(0, eps=1.0, momentum=None, affine=False, track_running_stats=False)");
}

TEST_CASE("a layer prints what was changed after construction", "[print]") {
  Layer<1> layer(3);
  layer.set_eps(0.5);
  layer.set_momentum(-2);
  layer.set_track_running_stats(false);
  CHECK(to_string(layer) == "BatchNorm1d(3, eps=0.5, momentum=-2.0, affine=True, track_running_stats=False)");
}

TEST_CASE("a layer goes to a stream", "[print]") {
  std::ostringstream out;
  out << Layer<2>(64) << "; " << Lazy<2>();
  CHECK(out.str() ==
        "BatchNorm2d(64, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True); "
        "LazyBatchNorm2d(0, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)");
}

TEST_CASE("a lazy layer prints 0 channels until it has some", "[print]") {
  const std::string rest = "(0, eps=0.001, momentum=None, affine=True, track_running_stats=False)";
  const syncbn::BatchNormOptions options{.eps = 1e-3, .momentum = std::nullopt, .track_running_stats = false};
  CHECK(to_string(Lazy<1>(options)) == "LazyBatchNorm1d" + rest);
  CHECK(to_string(Lazy<3>(options)) == "LazyBatchNorm3d" + rest);
  const auto group = syncbn::ThreadCommunicator::create(1);
  CHECK(to_string(Lazy<2, syncbn::ThreadCommunicator>(options, group[0])) == "LazySyncBatchNorm" + rest);
  Lazy<1> lazy(options);
  lazy.materialize(7);
  CHECK(to_string(lazy) == "BatchNorm1d(7, eps=0.001, momentum=None, affine=True, track_running_stats=False)");
}

TEST_CASE("numbers print as Python's repr does", "[print]") {
  const auto printed = [](double eps) {
    Layer<1> layer(1);
    layer.set_eps(eps);
    const std::string text = to_string(layer);
    const std::size_t first = text.find("eps=") + 4;
    return text.substr(first, text.find(", momentum") - first);
  };
  CHECK(printed(1e-5) == "1e-05");
  CHECK(printed(0.0001) == "0.0001");
  CHECK(printed(0.00012345) == "0.00012345");
  CHECK(printed(1.5e-10) == "1.5e-10");
  CHECK(printed(0) == "0.0");
  CHECK(printed(-0.0) == "-0.0");
  CHECK(printed(0.1 + 0.2) == "0.30000000000000004");
  CHECK(printed(100) == "100.0");
  CHECK(printed(1e15) == "1000000000000000.0");
  CHECK(printed(9999999999999998) == "9999999999999998.0");
  CHECK(printed(1e16) == "1e+16");
  CHECK(printed(1.25e100) == "1.25e+100");
  CHECK(printed(5e-324) == "5e-324");
  CHECK(printed(std::numeric_limits<double>::max()) == "1.7976931348623157e+308");
  CHECK(printed(std::numeric_limits<double>::infinity()) == "inf");
  CHECK(printed(-std::numeric_limits<double>::infinity()) == "-inf");
  CHECK(printed(std::numeric_limits<double>::quiet_NaN()) == "nan");
}
