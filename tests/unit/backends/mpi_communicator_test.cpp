#include <syncbn/backends/mpi_communicator.hpp>

#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <syncbn/syncbn.hpp>

#include "conformance/mpi_launcher.hpp"
#include "support/activations.hpp"
#include "support/catch.hpp"
#include "support/layer_judge.hpp"
#include "support/thrown_by.hpp"
#include "support/values.hpp"

// What every communicator promises is tested by the conformance suite; here is what MPI adds. Each process is a rank and
// runs every test case; what ranks came to is gathered, so that all of them judge alike.

namespace {

using namespace syncbn_test;
using std::chrono::milliseconds;
using syncbn::MpiCommunicator;
using Layer = syncbn::BatchNorm<1, syncbn::CpuBackend<double>, MpiCommunicator>;

// Calls into MPI, but for those of these tests by its profiling names.
int duplicates = 0;
int splits = 0;
int frees = 0;
int initializations = 0;
int finalizations = 0;
// The next MPI_Test fails, and takes this request out of the library's hands.
bool next_test_fails = false;
MPI_Request lost = MPI_REQUEST_NULL;

int world_rank() {
  int rank = 0;
  int finalized = 0;
  MPI_Finalized(&finalized);  // a layer may outlive MPI
  if (finalized == 0) MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}
int world_size() {
  int size = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return size;
}
bool is_last() { return world_rank() == world_size() - 1; }

// What all ranks say.
std::vector<std::string> said_by_all(const std::string& mine) { return gather_over_mpi(mine); }

void check_all_said(const std::string& mine, const std::string& expected) {
  CHECK(said_by_all(mine) == std::vector<std::string>(static_cast<std::size_t>(world_size()), expected));
}

// What one sum of a word throws; "nothing" if it comes to the number of ranks.
std::string sum_of_ones(MpiCommunicator& c) {
  return thrown_by([&] {
    std::vector<double> word{1};
    syncbn::all_reduce_sum(c, word);
    if (word[0] != c.size()) throw syncbn::Error("a wrong sum");
  });
}

Activations<double> batch(Index channels) {
  return {{4, channels}, values(static_cast<std::size_t>(4 * channels), 5 + static_cast<std::uint64_t>(world_rank()))};
}

std::string forward(Layer& layer, Index channels) {
  return thrown_by([&] {
    Activations<double> x = batch(channels);
    static_cast<void>(layer.forward(x, x));
  });
}
std::string forward(Layer& layer) { return forward(layer, layer.channels()); }

// Before main: MPI is not there yet.
const std::string made_before_init = thrown_by([] { MpiCommunicator too_early; });

// After main, when MPI is gone: nothing may be called any more, and everything can still be destroyed.
struct Leftover {
  std::optional<MpiCommunicator> communicator;
  std::optional<MpiCommunicator> part;
  std::unique_ptr<Layer> layer;

  ~Leftover() {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (finalized == 0 || !communicator) return;
    const std::string not_running = "MPI is not running: call MPI_Init before, and MPI_Finalize after";
    bool right = thrown_by([] { MpiCommunicator too_late; }) == "CommunicatorError: " + not_running;
    const std::string used = forward(*layer);
    // A group of one exchanges nothing, and so does not miss MPI.
    right = right &&
            (communicator->size() == 1 ? used == "nothing" : used.find("CommunicatorError: forward of layer") == 0);
    right = right && thrown_by([&] { static_cast<void>(part->split(0, 0)); }).find("CommunicatorError") == 0;
    layer.reset();
    part.reset();
    communicator.reset();
    right = right && initializations == 1 && finalizations == 1;
    if (!right) {
      std::fprintf(stderr, "after MPI_Finalize: %s; %d, %d\n", used.c_str(), initializations, finalizations);
      std::_Exit(1);
    }
  }
} leftover;

}  // namespace

// MPI's own way of counting calls.
extern "C" {
int MPI_Comm_dup(MPI_Comm communicator, MPI_Comm* copy) {
  ++duplicates;
  return PMPI_Comm_dup(communicator, copy);
}
int MPI_Comm_split(MPI_Comm communicator, int color, int key, MPI_Comm* part) {
  ++splits;
  return PMPI_Comm_split(communicator, color, key, part);
}
int MPI_Test(MPI_Request* request, int* done, MPI_Status* status) {
  if (!next_test_fails) return PMPI_Test(request, done, status);
  next_test_fails = false;
  lost = *request;
  *request = MPI_REQUEST_NULL;
  return MPI_ERR_OTHER;
}
int MPI_Comm_free(MPI_Comm* communicator) {
  ++frees;
  return PMPI_Comm_free(communicator);
}
int MPI_Init_thread(int* argc, char*** argv, int required, int* provided) {
  ++initializations;
  return PMPI_Init_thread(argc, argv, required, provided);
}
int MPI_Finalize() {
  ++finalizations;
  return PMPI_Finalize();
}
}

TEST_CASE("without MPI_Init there is no communicator, and the library does not initialise MPI", "[mpi]") {
  CHECK(made_before_init == "CommunicatorError: MPI is not running: call MPI_Init before, and MPI_Finalize after");
  CHECK(initializations == 1);  // by main
}

TEST_CASE("the default is the world", "[mpi]") {
  MpiCommunicator world;
  CHECK(world.rank() == world_rank());
  CHECK(world.size() == world_size());
  check_all_said(sum_of_ones(world), "nothing");
}

TEST_CASE("all layers of an MPI communicator share one duplicate of it", "[mpi]") {
  MPI_Comm user = MPI_COMM_NULL;
  PMPI_Comm_dup(MPI_COMM_WORLD, &user);
  const int before = duplicates;
  {
    // More than MPICH has communicators for.
    std::vector<std::unique_ptr<Layer>> layers;
    for (int i = 0; i < 3000; ++i) {
      layers.push_back(std::make_unique<Layer>(1, syncbn::BatchNormOptions{}, MpiCommunicator(user)));
    }
    CHECK(duplicates == before + 1);
    std::string thrown = forward(*layers.front());
    for (std::size_t i = 1; i < layers.size() && thrown == "nothing"; i += 500) thrown = forward(*layers[i]);
    check_all_said(thrown, "nothing");
    check_all_said(layers.back()->exchange().name(), "#2999");
  }
  // And the next ones do too, after the first are gone.
  Layer another(2, {}, MpiCommunicator(user));
  CHECK(duplicates == before + 1);
  check_all_said(forward(another), "nothing");
  PMPI_Comm_free(&user);
}

TEST_CASE("messages of the user on his communicator are not the library's", "[mpi]") {
  MpiCommunicator world;
  std::vector<double> word{1};
  syncbn::HostQueue queue;
  auto frame = world.acquire(3);
  frame.data()[0] = 1;
  double user_sum = 0;
  const double mine = 10;
  world.start(frame, queue);
  MPI_Allreduce(&mine, &user_sum, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
  world.finish(frame, queue);
  CHECK(frame.data()[0] == world_size());
  CHECK(user_sum == 10 * world_size());
}

TEST_CASE("freeing the user's communicator frees the library's, and ends its use", "[mpi]") {
  MPI_Comm user = MPI_COMM_NULL;
  PMPI_Comm_dup(MPI_COMM_WORLD, &user);
  MpiCommunicator communicator(user);
  Layer layer(3, {}, communicator);
  const std::string first = forward(layer);
  PMPI_Comm_free(&user);
  CHECK_FALSE(communicator.usable());
  const LayerSnapshot before(layer);
  check_all_said(first + "; " + sum_of_ones(communicator),
                 "nothing; CommunicatorError: the communicator is not usable any more: the MPI communicator was freed");
  if (world_size() > 1) {  // a group of one exchanges nothing
    const std::string thrown = forward(layer);
    CHECK(thrown.find("CommunicatorError: forward of layer '#0', exchange 1, rank ") == 0);
    CHECK(LayerSnapshot(layer) == before);
  }
  layer.set_communicator(MpiCommunicator());
  check_all_said(forward(layer), "nothing");
}

TEST_CASE("every communicator that the library made is freed", "[mpi]") {
  const int made_before = duplicates + splits;
  const int freed_before = frees;
  std::string thrown;
  for (int i = 0; i < 20; ++i) {
    MPI_Comm user = MPI_COMM_NULL;
    PMPI_Comm_dup(MPI_COMM_WORLD, &user);
    {
      MpiCommunicator communicator(user);
      Layer layer(3, {}, communicator.split(0, 0));
      Layer copy = layer;
      layer.set_communicator(communicator);
      thrown = forward(layer) + forward(copy);
    }
    PMPI_Comm_free(&user);
  }
  check_all_said(thrown, "nothingnothing");
  CHECK(duplicates + splits == made_before + 40);
  CHECK(frees == freed_before + 40);
}

TEST_CASE("frames that are still under way when the user frees his communicator", "[mpi]") {
  MPI_Comm user = MPI_COMM_NULL;
  PMPI_Comm_dup(MPI_COMM_WORLD, &user);
  {
    MpiCommunicator communicator(user);
    syncbn::HostQueue queue;
    for (int i = 0; i < 4; ++i) {
      auto abandoned = communicator.acquire(512);
      communicator.start(abandoned, queue);
    }
  }
  PMPI_Comm_free(&user);
  MpiCommunicator world;
  check_all_said(sum_of_ones(world), "nothing");
}

TEST_CASE("a layer of one's own: MPI_COMM_SELF", "[mpi]") {
  MpiCommunicator self(MPI_COMM_SELF);
  CHECK(self.size() == 1);
  CHECK(self.rank() == 0);
  Layer layer(3, {}, self);
  std::string thrown = "nothing";
  if (is_last()) thrown = forward(layer);  // on one rank alone
  check_all_said(thrown, "nothing");
  CHECK(layer.num_batches_tracked() == (is_last() ? 1 : 0));
}

TEST_CASE("what is no group of ranks is refused", "[mpi]") {
  // A rank that is not in a group has no communicator.
  const std::string null = thrown_by([] { MpiCommunicator none(MPI_COMM_NULL); });
  CHECK(null.find("CommunicatorError: ") == 0);
  if (world_size() == 1) return;
  // The sum over an inter-communicator is that of the other group.
  MPI_Comm half = MPI_COMM_NULL;
  MPI_Comm between = MPI_COMM_NULL;
  PMPI_Comm_split(MPI_COMM_WORLD, world_rank() % 2, 0, &half);
  MPI_Intercomm_create(half, 0, MPI_COMM_WORLD, 1 - world_rank() % 2, 1, &between);
  const std::string inter = thrown_by([&] { MpiCommunicator refused(between); });
  CHECK(inter.find("CommunicatorError: ") == 0);
  PMPI_Comm_free(&between);
  PMPI_Comm_free(&half);
}

TEST_CASE("the statistics of a part are those of its ranks alone", "[mpi]") {
  MpiCommunicator world;
  MpiCommunicator part = world.split(world_rank() % 2, -world_rank());
  Layer layer(3, {}, part);
  Layer whole(3, {}, world);
  std::string thrown = forward(layer) + forward(whole);
  check_all_said(thrown, "nothingnothing");
  // The same with a communicator of the user's.
  MPI_Comm user = MPI_COMM_NULL;
  PMPI_Comm_split(MPI_COMM_WORLD, world_rank() % 2, -world_rank(), &user);
  Layer of_user(3, {}, MpiCommunicator(user));
  check_all_said(forward(of_user), "nothing");
  CHECK(numbers_of(of_user.running_mean()) == numbers_of(layer.running_mean()));
  CHECK(of_user.communicator().rank() == part.rank());
  if (world_size() > 1) CHECK(numbers_of(whole.running_mean()) != numbers_of(layer.running_mean()));
  PMPI_Comm_free(&user);
}

TEST_CASE("split refuses a negative color, and goes on", "[mpi]") {
  MpiCommunicator world;
  const std::string thrown = thrown_by([&] { static_cast<void>(world.split(-1, 0)); });
  CHECK(thrown.find("Error: split: rank ") == 0);
  check_all_said(sum_of_ones(world), "nothing");
  // A mistake of one rank: the others do not wait for it.
  const int last = world_size() - 1;
  check_all_said(thrown_by([&] { static_cast<void>(world.split(world_rank() == last ? -5 : 0, 0)); }),
                 "Error: split: rank " + std::to_string(last) + " gave a negative color");
  check_all_said(sum_of_ones(world), "nothing");
}

TEST_CASE("split has the timeout of the whole", "[mpi]") {
  MpiCommunicator world;
  world.set_timeout(milliseconds(100));
  MpiCommunicator part = world.split(0, 0);
  world.set_timeout(std::chrono::minutes(10));
  syncbn::HostQueue queue;
  auto frame = part.acquire(1);
  std::string thrown;
  if (world_size() > 1 && world_rank() == 0) {
    thrown = thrown_by([&] {
      part.start(frame, queue);
      part.finish(frame, queue);
    });
  }
  MPI_Barrier(MPI_COMM_WORLD);
  part.set_timeout(std::chrono::minutes(1));
  if (world_rank() > 0) {  // so that nothing is under way when MPI ends
    part.start(frame, queue);
    part.finish(frame, queue);
  }
  const std::string expected =
      world_size() == 1 ? ""
                        : "CommunicatorError: no answer within 0.100000 s; MPI cannot tell which ranks are missing";
  CHECK(said_by_all(thrown)[0] == expected);
}

// ---- Errors ----------------------------------------------------------------------------------------------------------

TEST_CASE("64 channels on one rank, 2048 on the others, in the second step: all throw, and go on", "[mpi]") {
  if (world_size() == 1) {
    SUCCEED("one rank agrees with itself");
    return;
  }
  MPI_Comm user = MPI_COMM_NULL;
  PMPI_Comm_dup(MPI_COMM_WORLD, &user);
  {
    MpiCommunicator communicator(user);
    Layer narrow(64, {}, communicator);
    Layer wide(2048, {}, communicator);
    std::string thrown = forward(narrow) + forward(wide);
    check_all_said(thrown, "nothingnothing");
    const LayerSnapshot before(narrow);
    for (int attempt = 0; attempt < 3; ++attempt) {
      const std::vector<std::string> said = said_by_all(is_last() ? forward(narrow) : forward(wide));
      for (const std::string& text : said) {
        CHECK(text == said[0]);
        CHECK(text.find("Error: ranks disagree about what they are calling: forward of layer '#1'") == 0);
        CHECK(text.find("2048 channels") < text.find(" 64 channels"));
      }
    }
    CHECK(LayerSnapshot(narrow) == before);
    thrown = forward(narrow) + forward(wide);
    check_all_said(thrown, "nothingnothing");
  }
  PMPI_Comm_free(&user);
}

TEST_CASE("what one rank's input lacks, all ranks say", "[mpi]") {
  MpiCommunicator world;
  for (const Index channels : {Index{3}, Index{500}}) {
    Layer layer(channels, {}, world);
    layer.set_name("layer");
    const LayerSnapshot before(layer);
    const std::string thrown = forward(layer, is_last() ? channels + 1 : channels);
    CHECK(LayerSnapshot(layer) == before);
    const std::string wanted = std::to_string(channels + 1);
    std::string expected = "Error: running_mean should contain " + wanted + " elements not " +
                           std::to_string(channels) + " (x has " + wanted + " channels)";
    if (world_size() > 1) {
      expected +=
          " [rank " + std::to_string(world_size() - 1) + " of " + std::to_string(world_size()) + "] [layer 'layer']";
    }
    check_all_said(thrown, expected);
    check_all_said(forward(layer), "nothing");
  }
}

TEST_CASE("a rank that is late past the deadline: the others throw, and all go on with another communicator", "[mpi]") {
  if (world_size() == 1) {
    SUCCEED("nobody is late");
    return;
  }
  MPI_Comm user = MPI_COMM_NULL;
  PMPI_Comm_dup(MPI_COMM_WORLD, &user);
  MpiCommunicator communicator(user);
  communicator.set_timeout(milliseconds(200));
  Layer layer(3, {}, communicator);
  layer.set_name("stem");
  const LayerSnapshot before(layer);
  std::string thrown;
  if (!is_last()) {
    thrown = forward(layer);
    CHECK(thrown == "CommunicatorError: forward of layer 'stem', exchange 0, rank " + std::to_string(world_rank()) +
                        " of " + std::to_string(world_size()) +
                        ": no answer within 0.200000 s; MPI cannot tell which ranks are missing");
    CHECK_FALSE(communicator.usable());
    CHECK(LayerSnapshot(layer) == before);
    // From now on at once, whatever is called.
    communicator.set_timeout(std::chrono::minutes(10));
    CHECK(sum_of_ones(communicator).find("CommunicatorError: the communicator is not usable any more") == 0);
    CHECK(thrown_by([&] { static_cast<void>(communicator.split(0, 0)); }).find("CommunicatorError: ") == 0);
  }
  MPI_Barrier(MPI_COMM_WORLD);
  if (is_last()) {  // wholly before the step or wholly after it
    communicator.set_timeout(std::chrono::seconds(20));
    thrown = forward(layer);
    CHECK((LayerSnapshot(layer) == before) == (thrown != "nothing"));
  }
  MPI_Barrier(MPI_COMM_WORLD);

  layer.set_communicator(MpiCommunicator());
  const std::vector<std::string> said = said_by_all(std::to_string(layer.num_batches_tracked()));
  if (said.front() != said.back()) {  // the last rank is one step ahead: the next header tells
    thrown = forward(layer);
    CHECK(thrown.find("Error: ranks disagree") == 0);
    CHECK(thrown.find("num_batches_tracked 0") < thrown.find("num_batches_tracked 1"));
    layer.set_num_batches_tracked(1);
  }
  check_all_said(forward(layer), "nothing");
  // The user's communicator can be freed: the library leaves its own to the process.
  PMPI_Comm_free(&user);
}

TEST_CASE("an error that MPI tells a poll is not lost", "[mpi]") {
  MPI_Comm user = MPI_COMM_NULL;
  PMPI_Comm_dup(MPI_COMM_WORLD, &user);
  MpiCommunicator communicator(user);
  syncbn::HostQueue queue;
  auto frame = communicator.acquire(512);
  communicator.start(frame, queue);
  next_test_fails = true;
  CHECK(communicator.poll(frame));
  CHECK_FALSE(next_test_fails);
  CHECK(thrown_by([&] { communicator.finish(frame, queue); }).find("CommunicatorError: MPI_Test: ") == 0);
  CHECK_FALSE(communicator.usable());
  PMPI_Wait(&lost, MPI_STATUS_IGNORE);
  PMPI_Comm_free(&user);
}

TEST_CASE("a deadline counts waiting for others, not a rank's own work", "[mpi]") {
  MpiCommunicator world;
  MpiCommunicator part = world.split(0, 0);
  part.set_timeout(milliseconds(200));
  syncbn::HostQueue queue;
  auto frame = part.acquire(512);
  part.start(frame, queue);
  std::this_thread::sleep_for(milliseconds(300));
  const std::string thrown = thrown_by([&] { part.finish(frame, queue); });
  part.set_timeout(std::chrono::minutes(1));
  check_all_said(thrown, "nothing");
}

TEST_CASE("a timeout of for ever is possible", "[mpi]") {
  MpiCommunicator world;
  MpiCommunicator part = world.split(0, 0);
  part.set_timeout(std::chrono::nanoseconds::max());
  check_all_said(sum_of_ones(part), "nothing");
}

TEST_CASE("what is left after MPI_Finalize is judged when the program ends", "[mpi]") {
  leftover.communicator.emplace();
  leftover.part.emplace(leftover.communicator->split(0, 0));
  leftover.layer = std::make_unique<Layer>(3, syncbn::BatchNormOptions{}, *leftover.communicator);
  check_all_said(forward(*leftover.layer), "nothing");
}
