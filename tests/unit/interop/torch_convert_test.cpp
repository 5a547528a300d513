#include <syncbn/interop/torch_convert.hpp>

#include <atomic>
#include <chrono>
#include <functional>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include <syncbn/backends/thread_communicator.hpp>
#include <syncbn/interop/torch_process_group.hpp>
#include <syncbn/syncbn.hpp>  // has functions of the same names, which must not be taken for those of modules

#include "support/torch.hpp"

using at::Tensor;
using Catch::Matchers::Contains;
using syncbn::AnyCommunicator;
using syncbn_test::agree;
namespace nn = ::torch::nn;

namespace {

using Rank = std::function<void(int rank, const AnyCommunicator& ranks)>;

// Threads as ranks, over our own communicator and over gloo.
void on_threads(int ranks, const Rank& f) {
  syncbn::run_thread_ranks(ranks, [&](const syncbn::ThreadCommunicator& thread) { f(thread.rank(), thread); });
}
void on_gloo_until(std::chrono::milliseconds timeout, int ranks, const Rank& f) {
  const auto store = c10::make_intrusive<c10d::HashStore>();
  std::vector<std::thread> threads;
  std::vector<std::string> problems(static_cast<std::size_t>(ranks));
  for (int r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      try {
        const auto options = c10d::ProcessGroupGloo::Options::create();
        options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1"));
        const auto group = c10::make_intrusive<c10d::ProcessGroupGloo>(store, r, ranks, options);
        f(r, syncbn::torch::ProcessGroupCommunicator(group, timeout));
      } catch (const std::exception& e) {
        problems[static_cast<std::size_t>(r)] = e.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(problems == std::vector<std::string>(problems.size()));
}

void on_gloo(int ranks, const Rank& f) { on_gloo_until(std::chrono::minutes(1), ranks, f); }

// LibTorch's Sequential is no element of a Sequential; one with this forward() is.
struct InnerImpl : nn::SequentialImpl {
  using SequentialImpl::SequentialImpl;
  Tensor forward(const Tensor& x) { return nn::SequentialImpl::forward(x); }
};
TORCH_MODULE(Inner);

// A small model with what a user might do: containers in containers, and one layer in two places.
nn::Sequential make_model() {
  ::torch::manual_seed(5);
  const nn::BatchNorm2d shared(4);
  nn::Sequential model(nn::Conv2d(nn::Conv2dOptions(3, 4, 3).bias(false)), shared, nn::ReLU(),
                       Inner(nn::Conv2d(nn::Conv2dOptions(4, 4, 1)), nn::BatchNorm2d(4), shared));
  model->to(at::kDouble);  // makes LibTorch's counters doubles, too
  return model;
}

}  // namespace

TEST_CASE("ranks together do what one does with the whole batch", "[torch]") {
  const auto run = GENERATE(&on_threads, &on_gloo);
  const int ranks = GENERATE(2, 4);
  constexpr double rate = 0.05;
  const std::vector<std::int64_t> begins = ranks == 2
                                               ? std::vector<std::int64_t>{0, 5, 7}
                                               : std::vector<std::int64_t>{0, 1, 5, 5, 7};  // uneven, and one is empty
  ::torch::manual_seed(7);
  const Tensor x = at::randn({7, 3, 6, 5}, at::kDouble), probe = at::randn({7, 4, 4, 3}, at::kDouble);

  auto whole = make_model();
  ::torch::optim::SGD optimizer(whole->parameters(), rate);
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    (whole->forward(x) * probe).sum().backward();
    optimizer.step();
  }

  std::vector<Tensor> gradients;  // what data-parallel training adds up
  std::mutex mutex;
  std::vector<nn::Sequential> models;
  for (int r = 0; r < ranks; ++r) models.push_back(make_model());  // seeds are global
  for (int step = 0; step < 3; ++step) {
    gradients.clear();
    run(ranks, [&](int rank, const AnyCommunicator& group) {
      const auto r = static_cast<std::size_t>(rank);
      syncbn::torch::convert_sync_batchnorm(models[r], group);
      models[r]->zero_grad();
      const auto mine = [&](const Tensor& t) { return t.slice(0, begins[r], begins[r + 1]); };
      (models[r]->forward(mine(x)) * mine(probe)).sum().backward();
      const std::lock_guard lock(mutex);
      const auto all = models[r]->parameters();
      for (std::size_t i = 0; i < all.size(); ++i) {
        if (gradients.size() == i) gradients.push_back(at::zeros_like(all[i]));
        if (all[i].grad().defined()) gradients[i] += all[i].grad();
      }
    });
    const at::NoGradGuard no_gradients;
    for (auto& model : models) {
      auto all = model->parameters();
      for (std::size_t i = 0; i < all.size(); ++i) all[i] -= rate * gradients[i];
    }
  }
  const auto wanted = whole->named_parameters();
  for (const auto& model : models) {
    for (const auto& item : model->named_parameters()) CHECK(agree(item.value(), wanted[item.key()], 1000));
    const auto wanted_buffers = whole->named_buffers();
    const auto have = model->named_buffers();
    CHECK(have.keys() == wanted_buffers.keys());
    for (const auto& item : have) {
      CHECK(agree(item.value(), wanted_buffers[item.key()].to(item.value().scalar_type()), 1000));
    }
  }
}

TEST_CASE("conversion keeps what others hold of a model", "[torch]") {
  auto model = make_model();
  const auto before = model->parameters();
  const auto mean = model->named_buffers()["1.running_mean"];
  model->eval();
  on_threads(1, [&](int, const AnyCommunicator& group) { syncbn::torch::convert_sync_batchnorm(model, group); });
  const auto after = model->parameters();
  REQUIRE(after.size() == before.size());
  for (std::size_t i = 0; i < after.size(); ++i) CHECK(after[i].is_same(before[i]));
  CHECK(model->named_buffers()["1.running_mean"].data_ptr() == mean.data_ptr());
  CHECK(model->named_buffers()["1.num_batches_tracked"].scalar_type() == at::kLong);
  auto* const first = model->ptr(1)->as<syncbn::torch::BatchNorm2dImpl>();
  REQUIRE(first != nullptr);
  CHECK_FALSE(first->is_training());
  CHECK(model->ptr(3)->as<nn::SequentialImpl>()->ptr(2).get() == first);  // shared before, and shared after
  CHECK(model->named_children()["1"].get() == first);

  nn::ModuleList list(nn::BatchNorm1d(2), nn::Linear(2, 2));
  nn::ModuleDict dict(std::vector<std::pair<std::string, std::shared_ptr<nn::Module>>>{
      {"norm", std::make_shared<nn::BatchNorm3dImpl>(2)}});
  on_threads(2, [&](int rank, const AnyCommunicator& group) {
    if (rank != 0) return;
    syncbn::torch::convert_sync_batchnorm(list, group);
    syncbn::torch::convert_sync_batchnorm(dict, group);
  });
  CHECK((*list)[0]->as<syncbn::torch::BatchNorm1dImpl>()->communicator().size() == 2);
  CHECK((*dict)["norm"]->as<syncbn::torch::BatchNorm3dImpl>()->communicator().size() == 2);
  std::ostringstream out;
  out << *(*list)[0];
  CHECK_THAT(out.str(), Contains("ranks=2"));
  syncbn::torch::revert_sync_batchnorm(list);
  CHECK((*list)[0]->as<syncbn::torch::BatchNorm1dImpl>()->communicator().size() == 1);
}

namespace {

struct BlockImpl : nn::Module {
  nn::BatchNorm2d theirs{nullptr};
  syncbn::torch::BatchNorm2d ours{nullptr};
  explicit BlockImpl(bool with_theirs) {
    if (with_theirs) theirs = register_module("theirs", nn::BatchNorm2d(2));
    ours = register_module("ours", syncbn::torch::BatchNorm2d(2));
  }
};
TORCH_MODULE(Block);

// Its own list of modules, and a member besides.
struct WithMemberImpl : InnerImpl {
  nn::BatchNorm2d last{nullptr};
  explicit WithMemberImpl(const nn::BatchNorm2d& element) : InnerImpl(element) {
    last = register_module("last", nn::BatchNorm2d(2));
  }
};
TORCH_MODULE(WithMember);

}  // namespace

TEST_CASE("members that cannot be replaced are named, before anything is", "[torch]") {
  const auto alone = syncbn::ThreadCommunicator::create(2);  // nobody calls
  nn::ModuleList model(Block(false), Block(true), nn::BatchNorm2d(2));
  CHECK_THROWS_WITH(syncbn::torch::convert_sync_batchnorm(model, alone[0]), Contains("ModuleDict: 1.theirs; use"));
  CHECK((*model)[2]->as<nn::BatchNorm2dImpl>() != nullptr);
  CHECK((*model)[0]->as<BlockImpl>()->ours->communicator().size() == 1);
  CHECK_THROWS_WITH(syncbn::torch::convert_sync_batchnorm(nn::BatchNorm2d(2), alone[0]), Contains("the model itself"));
  nn::ModuleList derived(WithMember(nn::BatchNorm2d(2)));
  CHECK_THROWS_WITH(syncbn::torch::convert_sync_batchnorm(derived, alone[0]), Contains("ModuleDict: 0.last; use"));
  nn::ModuleList good(Block(false), nn::BatchNorm2d(2));
  syncbn::torch::convert_sync_batchnorm(good, alone[0]);
  CHECK((*good)[0]->as<BlockImpl>()->ours->communicator().size() == 2);
}

TEST_CASE("all ranks throw when the input of one is bad, and go on afterwards", "[torch]") {
  const auto run = GENERATE(&on_threads, &on_gloo);
  std::vector<std::string> errors(3);
  std::vector<std::int64_t> batches(3);
  run(3, [&](int rank, const AnyCommunicator& group) {
    const auto r = static_cast<std::size_t>(rank);
    syncbn::torch::SyncBatchNorm bn(nn::BatchNormOptions(2), group);
    Tensor x = at::ones({2, 2, 3});
    if (rank == 1) x = at::ones({2, 2, 3}, at::kInt);
    try {
      bn->forward(x);
    } catch (const syncbn::Error& e) {
      errors[r] = e.what();
    }
    bn->forward(at::randn({2, 2, 3}));
    batches[r] = bn->num_batches_tracked.item<std::int64_t>();
  });
  for (const std::string& error : errors) CHECK_THAT(error, Contains("expected scalar type Float but found Int"));
  CHECK(batches == std::vector<std::int64_t>(3, 1));
}

TEST_CASE("all ranks throw when a parameter of one is missing", "[torch]") {
  std::vector<std::string> errors(2);
  on_threads(2, [&](int rank, const AnyCommunicator& group) {
    const syncbn::torch::Normalizer normalizer(nn::BatchNormOptions(3).track_running_stats(false), group);
    const Tensor weight = at::ones({3}).requires_grad_(), bias = rank == 1 ? Tensor() : at::zeros({3});
    try {
      normalizer.forward(at::ones({2, 3}), {weight, bias, {}, {}, {}}, {});
    } catch (const syncbn::Error& e) {
      errors[static_cast<std::size_t>(rank)] = e.what();
    }
  });
  for (const std::string& error : errors) CHECK_THAT(error, Contains("bias"));
  CHECK_THAT(errors[0], Contains("rank 1"));
}

TEST_CASE("models of 16 bits are converted to parameters of float", "[torch]") {
  const auto type = GENERATE(at::kHalf, at::kBFloat16);
  nn::Sequential model(nn::BatchNorm2d(4));
  const Tensor weight = model->parameters()[0];
  model->to(type);
  syncbn::torch::convert_sync_batchnorm(model, {});
  const Tensor x = at::randn({2, 4, 3, 3}).to(type);
  CHECK(model->forward(x).scalar_type() == type);
  CHECK(model->parameters()[0].is_same(weight));  // optimizers hold it
  CHECK(weight.scalar_type() == at::kFloat);
  CHECK(model->named_buffers()["0.running_var"].scalar_type() == at::kFloat);
}

TEST_CASE("all ranks throw when autograd refuses the backward pass of one, and go on afterwards", "[torch]") {
  const auto run = GENERATE(&on_threads, &on_gloo);
  const bool written_to = GENERATE(true, false);  // else: a gradient of a gradient
  std::vector<std::string> errors(2);
  std::vector<bool> usable(2);
  run(2, [&](int rank, const AnyCommunicator& group) {
    const auto r = static_cast<std::size_t>(rank);
    syncbn::torch::SyncBatchNorm bn(nn::BatchNormOptions(2), group);
    const auto step = [&](bool bad) {
      const Tensor leaf = at::randn({4, 2, 3}).requires_grad_(), x = leaf * 1;
      const Tensor y = bn->forward(x);
      if (bad && written_to) {
        const at::NoGradGuard no_gradients;
        x.add_(1);
      }
      ::torch::autograd::grad({y.sum()}, {leaf}, {}, c10::nullopt, bad && !written_to);
    };
    try {
      step(rank == 1);
    } catch (const std::exception& e) {
      errors[r] = e.what();
    }
    step(false);
    usable[r] = bn->communicator().usable();
  });
  const char* const expected = written_to ? "modified by an inplace operation" : "gradient of a gradient";
  for (const std::string& error : errors) CHECK_THAT(error, Contains(expected));
  CHECK_THAT(errors[0], Contains("rank 1"));
  CHECK(usable == std::vector<bool>(2, true));
}

TEST_CASE("a process group has to be there, and time", "[torch]") {
  on_gloo(1, [](int, const AnyCommunicator&) {
    CHECK_THROWS_AS(syncbn::torch::ProcessGroupCommunicator(c10::intrusive_ptr<c10d::ProcessGroupGloo>()),
                    syncbn::Error);
    const auto options = c10d::ProcessGroupGloo::Options::create();
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1"));
    const auto group =
        c10::make_intrusive<c10d::ProcessGroupGloo>(c10::make_intrusive<c10d::HashStore>(), 0, 1, options);
    CHECK_THROWS_AS(syncbn::torch::ProcessGroupCommunicator(group, std::chrono::milliseconds(0)), syncbn::Error);
  });
}

TEST_CASE("a rank that is late, or gone, is an error", "[torch]") {
  const bool gone = GENERATE(true, false);
  std::string error;
  std::atomic<bool> known = false;
  on_gloo_until(gone ? std::chrono::milliseconds(60'000) : std::chrono::milliseconds(200), 2,
                [&](int rank, const AnyCommunicator& group) {
                  if (rank == 1) {
                    while (!gone && !known) std::this_thread::sleep_for(std::chrono::milliseconds(10));
                    return;
                  }
                  syncbn::torch::SyncBatchNorm bn(nn::BatchNormOptions(2), group);
                  try {
                    bn->forward(at::ones({2, 2, 3}));
                  } catch (const syncbn::CommunicatorError& e) {
                    error = e.what();
                  }
                  CHECK_FALSE(bn->communicator().usable());
                  CHECK(bn->num_batches_tracked.item<std::int64_t>() == 0);
                  CHECK_THROWS_AS(bn->forward(at::ones({2, 2, 3})), syncbn::CommunicatorError);
                  known = true;
                });
  CHECK_THAT(error, Contains("forward of layer") && Contains("process group"));
}
