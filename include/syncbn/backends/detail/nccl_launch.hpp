#pragma once

#include <exception>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <syncbn/all_reduce.hpp>
#include <syncbn/backends/cuda_queue.hpp>
#include <syncbn/backends/detail/nccl_group.hpp>
#include <syncbn/concepts.hpp>

// What surrounds sums: calls that go together, and what ranks agree about before they form a group.

namespace syncbn::inline v0::detail {

// A group call of this thread. NCCL puts its sums into the streams at the end; only then can events follow them. Until then
// nobody else may call NCCL on the communicators that take part, or abort them.
class NcclLaunch {
 public:
  NcclLaunch() : outer_(current()) {
    nccl_check(ncclGroupStart(), "ncclGroupStart");
    current() = this;
  }
  NcclLaunch(const NcclLaunch&) = delete;
  NcclLaunch& operator=(const NcclLaunch&) = delete;
  // After an exception what was started goes all the same: NCCL's calls have to be closed, and sums to be followed.
  ~NcclLaunch() {
    if (open_) static_cast<void>(close());
  }

  void end() {
    if (const std::exception_ptr first = close()) std::rethrow_exception(first);
  }

  static void start(const std::shared_ptr<NcclGroup>& group, NcclFrame& frame, cudaStream_t stream) {
    NcclLaunch* launch = current();
    while (launch != nullptr && launch->outer_ != nullptr) launch = launch->outer_;
    if (launch != nullptr) launch->turns_.push_back(group->turn());
    std::optional<NcclFlight> flight = group->put(frame, stream);
    if (!flight) return;
    if (launch == nullptr) return group->put_down(frame, std::move(*flight));
    launch->puts_.push_back({group, &frame, std::move(*flight)});
  }

 private:
  struct Put {
    std::shared_ptr<NcclGroup> group;
    NcclFrame* frame;
    NcclFlight flight;
  };

  // Returns the first of what went wrong.
  std::exception_ptr close() noexcept {
    open_ = false;
    current() = outer_;
    const ncclResult_t result = ncclGroupEnd();
    std::exception_ptr first;
    const auto capture = [&](const auto& f) {
      try {
        f();
      } catch (...) {
        if (first == nullptr) first = std::current_exception();
      }
    };
    for (Put& put : puts_) {
      capture([&] { put.group->settle(result, "ncclGroupEnd"); });
      capture([&] { put.group->put_down(*put.frame, std::move(put.flight)); });
    }
    if (result != ncclInProgress) capture([&] { nccl_check(result, "ncclGroupEnd"); });
    return first;
  }

  static NcclLaunch*& current() noexcept {
    static thread_local NcclLaunch* launch = nullptr;
    return launch;
  }

  NcclLaunch* outer_;
  bool open_ = true;
  std::vector<NcclCalls::Turn> turns_;  // outlive the puts
  std::vector<Put> puts_;
};

// Rank 0's new unique id. All ranks throw if one has no device, or rank 0 no id.
template <class Spread>
ncclUniqueId spread_unique_id(Spread& spread) {
  ncclUniqueId id{};
  constexpr std::size_t bytes = sizeof id.internal;
  int device = 0;
  const cudaError_t has_device = cudaGetDevice(&device);
  const ncclResult_t has_id = spread.rank() == 0 ? ncclGetUniqueId(&id) : ncclSuccess;
  std::vector<double> words(bytes + 1);
  for (std::size_t i = 0; i < bytes && spread.rank() == 0; ++i) words[i] = static_cast<unsigned char>(id.internal[i]);
  words[bytes] = has_device == cudaSuccess && has_id == ncclSuccess ? 0 : 1;
  all_reduce_sum(spread, words);
  nccl_check(has_id, "ncclGetUniqueId");
  if (has_device != cudaSuccess) throw CommunicatorError(CudaError(has_device, "cudaGetDevice").what());
  if (words[bytes] != 0) throw CommunicatorError("no NCCL communicator: another rank has no device, or no unique id");
  for (std::size_t i = 0; i < bytes; ++i) id.internal[i] = static_cast<char>(static_cast<unsigned char>(words[i]));
  return id;
}

// Throws on all ranks if one of them gave a negative color.
template <class Communicator>
void check_colors(Communicator& communicator, int color) {
  const CudaStream stream;  // outlives the frame
  CudaQueue queue{stream.get()};
  auto frame = communicator.acquire(communicator.size());
  std::vector<double> colors(static_cast<std::size_t>(communicator.size()));
  colors[static_cast<std::size_t>(communicator.rank())] = color < 0 ? 1 : 0;
  const std::size_t bytes = colors.size() * sizeof(double);
  cuda::check(cudaMemcpyAsync(frame.data(), colors.data(), bytes, cudaMemcpyHostToDevice, queue.stream),
              "cudaMemcpyAsync");
  cuda::check(cudaStreamSynchronize(stream.get()), "cudaStreamSynchronize");  // start() may throw: colors go then
  communicator.start(frame, queue);
  communicator.synchronize(queue);
  cuda::check(cudaMemcpyAsync(colors.data(), frame.data(), bytes, cudaMemcpyDeviceToHost, queue.stream),
              "cudaMemcpyAsync");
  cuda::check(cudaStreamSynchronize(queue.stream), "cudaStreamSynchronize");
  for (std::size_t r = 0; r < colors.size(); ++r) {
    if (colors[r] != 0) throw Error("split: rank " + std::to_string(r) + " gave a negative color");
  }
}

}  // namespace syncbn::inline v0::detail
