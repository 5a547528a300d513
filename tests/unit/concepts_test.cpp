#include <syncbn/concepts.hpp>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <syncbn/backends/cpu_backend.hpp>
#include <syncbn/backends/single_process_communicator.hpp>
#include <syncbn/backends/thread_communicator.hpp>

#include "support/catch.hpp"

// Every requirement has a type that meets all but this one: what a leaf concept is for.

namespace {

using syncbn::CpuBackend;
using syncbn::ErrorModel;
using syncbn::HostQueue;
using syncbn::HostSpace;
using syncbn::Index;
using syncbn::ScalarKind;
using syncbn::SingleProcessCommunicator;
using syncbn::TensorView;
using syncbn::ThreadCommunicator;

struct DeviceSpace {};
struct DeviceQueue {};

// True if leaves[i] is the only one that is false; with i beyond them, if none is.
template <std::size_t Size>
constexpr bool only_lacks(std::size_t i, const std::array<bool, Size>& leaves) {
  bool result = true;
  for (std::size_t j = 0; j < Size; ++j) result = result && leaves[j] == (j != i);
  return result;
}

// ---- Communicators --------------------------------------------------------------------------------------------------

struct Frame {
  double* data() const noexcept { return nullptr; }
  Index size() const noexcept { return 0; }
};

struct Group {
  using memory_space = DeviceSpace;
  using queue_type = DeviceQueue;
  using frame = Frame;
  static constexpr ErrorModel errors = ErrorModel::deferred;
  int rank() const noexcept { return 0; }
  int size() const noexcept { return 1; }
  bool usable() const noexcept { return true; }
  frame acquire(Index) { return {}; }
  void start(frame&, queue_type&) {}
  bool poll(frame&) noexcept { return true; }
  void finish(frame&, queue_type&) {}
};

template <class C>
constexpr std::array<bool, 7> communicator_leaves{
    std::copyable<C>,           syncbn::names_its_spaces<C>,     syncbn::states_its_error_model<C>,
    syncbn::knows_its_group<C>, syncbn::tells_whether_usable<C>, syncbn::hands_out_frames<C>,
    syncbn::sums_frames<C>};

template <class C>
constexpr bool communicator_but_for(std::size_t leaf) {
  return only_lacks(leaf, communicator_leaves<C>) && syncbn::communicator<C> == (leaf == 7);
}

struct CannotBeCopied : Group {
  CannotBeCopied() = default;
  CannotBeCopied(CannotBeCopied&&) = default;
  CannotBeCopied& operator=(CannotBeCopied&&) = default;
};
class NoSpace : public Group {
  using memory_space = DeviceSpace;
};
struct ErrorsAreNoModel : Group {
  static constexpr bool errors = true;
};
class NoErrors : public Group {
  using Group::errors;
};
struct RankMayThrow : Group {
  int rank() const { return 0; }
};
struct SizeIsLong : Group {
  long size() const noexcept { return 1; }
};
struct RankIsNotConst : Group {
  int rank() noexcept { return 0; }
};
struct NeverSaysUsable : Group {
  void usable() const noexcept {}
};
struct AcquiresSomethingElse : Group {
  double* acquire(Index) { return nullptr; }
};
struct PinnedFrame : Frame {
  PinnedFrame() = default;
  PinnedFrame(const PinnedFrame&) = delete;
  PinnedFrame& operator=(const PinnedFrame&) = delete;
};
struct FrameCannotMove : Group {
  using frame = PinnedFrame;
  frame acquire(Index) { return {}; }
};
struct UnnamedFrame : Frame {
  explicit UnnamedFrame(int) {}
};
struct FrameNeedsArguments : Group {
  using frame = UnnamedFrame;
  frame acquire(Index) { return UnnamedFrame(1); }
};
struct FloatFrame : Frame {
  float* data() const noexcept { return nullptr; }
};
struct FramesAreFloats : Group {
  using frame = FloatFrame;
  frame acquire(Index) { return {}; }
};
struct CannotStart : Group {
  void start() {}
};
struct PollMayThrow : Group {
  bool poll(frame&) { return true; }
};
struct FinishReturns : Group {
  int finish(frame&, queue_type&) { return 0; }
};
struct Splits : Group {
  Splits split(int, int) { return *this; }
};
struct SplitsIntoOthers : Group {
  Group split(int, int) { return *this; }
};
struct AlwaysTwo : Group {
  static constexpr int size() noexcept { return 2; }
};
struct AlwaysOne : Group {
  static constexpr int size() noexcept { return 1; }
};

}  // namespace

TEST_CASE("communicators, requirement by requirement", "[concepts]") {
  STATIC_REQUIRE(communicator_but_for<Group>(7));
  STATIC_REQUIRE(communicator_but_for<SingleProcessCommunicator>(7));
  STATIC_REQUIRE(communicator_but_for<ThreadCommunicator>(7));

  STATIC_REQUIRE(communicator_but_for<CannotBeCopied>(0));
  STATIC_REQUIRE(communicator_but_for<NoSpace>(1));
  STATIC_REQUIRE(communicator_but_for<ErrorsAreNoModel>(2));
  STATIC_REQUIRE(communicator_but_for<NoErrors>(2));
  STATIC_REQUIRE(communicator_but_for<RankMayThrow>(3));
  STATIC_REQUIRE(communicator_but_for<SizeIsLong>(3));
  STATIC_REQUIRE(communicator_but_for<RankIsNotConst>(3));
  STATIC_REQUIRE(communicator_but_for<NeverSaysUsable>(4));
  STATIC_REQUIRE(communicator_but_for<AcquiresSomethingElse>(5));
  STATIC_REQUIRE_FALSE(syncbn::hands_out_frames<FrameCannotMove>);
  STATIC_REQUIRE_FALSE(syncbn::hands_out_frames<FrameNeedsArguments>);
  STATIC_REQUIRE_FALSE(syncbn::hands_out_frames<FramesAreFloats>);
  STATIC_REQUIRE(communicator_but_for<CannotStart>(6));
  STATIC_REQUIRE(communicator_but_for<PollMayThrow>(6));
  STATIC_REQUIRE(communicator_but_for<FinishReturns>(6));
  STATIC_REQUIRE_FALSE(syncbn::communicator<int>);
  STATIC_REQUIRE_FALSE(syncbn::communicator<CpuBackend<float>>);
}

TEST_CASE("what a communicator may offer besides", "[concepts]") {
  STATIC_REQUIRE(syncbn::splittable<Splits>);
  STATIC_REQUIRE(syncbn::splittable<SingleProcessCommunicator>);
  STATIC_REQUIRE(syncbn::splittable<ThreadCommunicator>);
  STATIC_REQUIRE_FALSE(syncbn::splittable<Group>);
  STATIC_REQUIRE_FALSE(syncbn::splittable<SplitsIntoOthers>);

  STATIC_REQUIRE(syncbn::always_alone<SingleProcessCommunicator>);
  STATIC_REQUIRE(syncbn::always_alone<AlwaysOne>);
  STATIC_REQUIRE_FALSE(syncbn::always_alone<AlwaysTwo>);
  STATIC_REQUIRE_FALSE(syncbn::always_alone<Group>);  // 1, but known at run time only
  STATIC_REQUIRE_FALSE(syncbn::always_alone<ThreadCommunicator>);
}

// ---- Backends -------------------------------------------------------------------------------------------------------

namespace {

struct Device {
  using memory_space = DeviceSpace;
  using queue_type = DeviceQueue;
  using parameter_type = float;
  template <class T>
  using buffer = std::vector<T>;
  template <class T>
  using View = TensorView<T, DeviceSpace>;

  static constexpr bool accepts(ScalarKind kind) { return kind == ScalarKind::f32; }
  queue_type& queue() noexcept { return queue_; }
  template <class T>
  void download(const T*, Index, T*) const {}
  template <class T>
  void upload(const T*, Index, T*) {}
  template <class F>
  void for_each_channel(Index, F) {}
  void accumulate(View<const float>, syncbn::MomentsPointers) {}
  void accumulate(View<const float>, View<const float>, const double*, syncbn::GradientSumsPointers) {}
  template <class F>
  void normalize(View<const float>, F, View<float>) const {}
  template <class F>
  void propagate(View<const float>, View<const float>, F, View<float>) const {}

  queue_type queue_;
};

template <class B, class T = float>
constexpr std::array<bool, 10> backend_leaves{std::copyable<B>,
                                              syncbn::names_its_types<B>,
                                              syncbn::has_buffers<B>,
                                              syncbn::copies_to_host<B>,
                                              syncbn::runs_channel_functors<B>,
                                              syncbn::states_its_formats<B>,
                                              syncbn::accumulates_moments<B, T>,
                                              syncbn::accumulates_gradients<B, T>,
                                              syncbn::normalizes<B, T>,
                                              syncbn::propagates<B, T>};

template <class B>
constexpr bool backend_but_for(std::size_t leaf) {
  return only_lacks(leaf, backend_leaves<B>) && syncbn::backend<B> == (leaf == 10);
}

struct DeviceCannotBeCopied : Device {
  DeviceCannotBeCopied() = default;
  DeviceCannotBeCopied(DeviceCannotBeCopied&&) = default;
  DeviceCannotBeCopied& operator=(DeviceCannotBeCopied&&) = default;
};
struct QueueMayThrow : Device {
  queue_type& queue() { return queue_; }
};
struct QueueIsACopy : Device {
  queue_type queue() noexcept { return queue_; }
};
struct IntegerParameters : Device {
  using parameter_type = int;
};
struct FixedArrays : Device {
  template <class T>
  using buffer = std::array<T, 4>;
};
struct NoDownload : Device {
  void download() {}
};
struct DownloadIsNotConst : Device {
  template <class T>
  void download(const T*, Index, T*) {}
};
struct NoUpload : Device {
  void upload() {}
};
struct UploadsNoIntegers : Device {
  void upload(const float*, Index, float*) {}
};
struct NoFunctors : Device {
  void for_each_channel(Index) {}
};
struct AcceptsAnswersInt : Device {
  static constexpr int accepts(ScalarKind) { return 1; }
};
struct AcceptsIsNotStatic : Device {
  bool accepts(ScalarKind) const { return true; }
};
struct NoMoments : Device {
  void accumulate(View<const float>, View<const float>, const double*, syncbn::GradientSumsPointers) {}
};
struct NoGradients : Device {
  void accumulate(View<const float>, syncbn::MomentsPointers) {}
};
struct NormalizeIsNotConst : Device {
  template <class F>
  void normalize(View<const float>, F, View<float>) {}
};
struct NormalizeTakesNoFunctor : Device {
  void normalize(View<const float>, const double*, View<float>) const {}
};
struct PropagateIsNotConst : Device {
  template <class F>
  void propagate(View<const float>, View<const float>, F, View<float>) {}
};

}  // namespace

TEST_CASE("backends, requirement by requirement", "[concepts]") {
  STATIC_REQUIRE(backend_but_for<Device>(10));
  STATIC_REQUIRE(backend_but_for<CpuBackend<float>>(10));
  STATIC_REQUIRE(syncbn::backend<CpuBackend<double>>);
  STATIC_REQUIRE(only_lacks(10, backend_leaves<CpuBackend<double>, double>));
  STATIC_REQUIRE(only_lacks(10, backend_leaves<CpuBackend<double>, syncbn::BFloat16>));
  STATIC_REQUIRE(only_lacks(10, backend_leaves<CpuBackend<float>, syncbn::Float16>));

  STATIC_REQUIRE(backend_but_for<DeviceCannotBeCopied>(0));
  STATIC_REQUIRE(backend_but_for<QueueMayThrow>(1));
  STATIC_REQUIRE(backend_but_for<QueueIsACopy>(1));
  STATIC_REQUIRE_FALSE(syncbn::names_its_types<IntegerParameters>);
  STATIC_REQUIRE(backend_but_for<FixedArrays>(2));
  STATIC_REQUIRE(backend_but_for<NoDownload>(3));
  STATIC_REQUIRE(backend_but_for<DownloadIsNotConst>(3));
  STATIC_REQUIRE(backend_but_for<NoUpload>(3));
  STATIC_REQUIRE(backend_but_for<UploadsNoIntegers>(3));
  STATIC_REQUIRE(backend_but_for<NoFunctors>(4));
  STATIC_REQUIRE(backend_but_for<AcceptsAnswersInt>(5));
  STATIC_REQUIRE(backend_but_for<AcceptsIsNotStatic>(5));
  STATIC_REQUIRE(backend_but_for<NoMoments>(6));
  STATIC_REQUIRE(backend_but_for<NoGradients>(7));
  STATIC_REQUIRE(backend_but_for<NormalizeIsNotConst>(8));
  STATIC_REQUIRE(backend_but_for<NormalizeTakesNoFunctor>(8));
  STATIC_REQUIRE(backend_but_for<PropagateIsNotConst>(9));
  STATIC_REQUIRE_FALSE(syncbn::backend<int>);
  STATIC_REQUIRE_FALSE(syncbn::backend<ThreadCommunicator>);
}

TEST_CASE("a communicator and a backend that go together", "[concepts]") {
  struct OtherQueue : Group {
    using queue_type = HostQueue;
  };
  struct OtherSpace : Group {
    using memory_space = HostSpace;
  };
  STATIC_REQUIRE(syncbn::reaches_memory_of<ThreadCommunicator, CpuBackend<float>>);
  STATIC_REQUIRE(syncbn::reaches_memory_of<SingleProcessCommunicator, CpuBackend<double>>);
  STATIC_REQUIRE(syncbn::reaches_memory_of<Group, Device>);
  STATIC_REQUIRE_FALSE(syncbn::reaches_memory_of<ThreadCommunicator, Device>);
  STATIC_REQUIRE_FALSE(syncbn::reaches_memory_of<Group, CpuBackend<float>>);
  STATIC_REQUIRE_FALSE(syncbn::reaches_memory_of<OtherQueue, Device>);
  STATIC_REQUIRE_FALSE(syncbn::reaches_memory_of<OtherSpace, Device>);
}

// ---- Tensors --------------------------------------------------------------------------------------------------------

namespace {

struct Unknown {};
struct UnknownElement {};
struct Sixteen {
  unsigned char bytes[2];
};
struct TooLarge {
  unsigned char bytes[4];
};
struct NotTrivial {
  NotTrivial() = default;
  NotTrivial(const NotTrivial&) {}
  NotTrivial& operator=(const NotTrivial&) { return *this; }
  std::uint16_t bits = 0;
};
struct ForeignFloat {
  float value;
};
template <class T>
struct Image {
  T* data;
};

}  // namespace

template <>
struct syncbn::scalar_kind<Sixteen> {
  static constexpr ScalarKind value = ScalarKind::bf16;
};
template <>
struct syncbn::scalar_kind<TooLarge> {
  static constexpr ScalarKind value = ScalarKind::f16;
};
template <>
struct syncbn::scalar_kind<NotTrivial> {
  static constexpr ScalarKind value = ScalarKind::f16;
};
template <>
struct syncbn::scalar_kind<ForeignFloat> {
  static constexpr ScalarKind value = ScalarKind::f32;
};

template <class T>
struct syncbn::tensor_traits<Image<T>> {
  static TensorView<T> view(Image<T>& image) { return {image.data, {1}}; }
  static TensorView<const T> view(const Image<T>& image) { return {image.data, {1}}; }
};

TEST_CASE("tensors, and what can be written", "[concepts]") {
  STATIC_REQUIRE(syncbn::tensor<TensorView<float>>);
  STATIC_REQUIRE(syncbn::tensor<const TensorView<float>>);
  STATIC_REQUIRE(syncbn::tensor<TensorView<float>&>);
  STATIC_REQUIRE(syncbn::tensor<Image<float>>);
  STATIC_REQUIRE(syncbn::tensor<const Image<float>&>);
  STATIC_REQUIRE_FALSE(syncbn::tensor<Unknown>);
  STATIC_REQUIRE_FALSE(syncbn::tensor<float*>);
  STATIC_REQUIRE_FALSE(syncbn::tensor<std::vector<float>>);

  STATIC_REQUIRE(syncbn::writable_tensor<Image<float>>);
  STATIC_REQUIRE(syncbn::writable_tensor<Image<float>&>);
  STATIC_REQUIRE_FALSE(syncbn::writable_tensor<const Image<float>>);
  STATIC_REQUIRE(syncbn::writable_tensor<const TensorView<float>>);  // the view is const, its elements are not
  STATIC_REQUIRE_FALSE(syncbn::writable_tensor<TensorView<const float>>);
  STATIC_REQUIRE_FALSE(syncbn::writable_tensor<Unknown>);

  STATIC_REQUIRE(std::same_as<syncbn::view_t<Image<float>>, TensorView<float>>);
  STATIC_REQUIRE(std::same_as<syncbn::view_t<const Image<float>>, TensorView<const float>>);
}

TEST_CASE("element types that are known", "[concepts]") {
  STATIC_REQUIRE(syncbn::known_scalar<float>);
  STATIC_REQUIRE(syncbn::known_scalar<const double>);
  STATIC_REQUIRE(syncbn::known_scalar<syncbn::Float16>);
  STATIC_REQUIRE(syncbn::known_scalar<const syncbn::BFloat16>);
  STATIC_REQUIRE_FALSE(syncbn::known_scalar<int>);
  STATIC_REQUIRE_FALSE(syncbn::known_scalar<UnknownElement>);
  STATIC_REQUIRE(syncbn::known_scalar<Sixteen>);
  STATIC_REQUIRE(syncbn::known_scalar<const Sixteen>);
  STATIC_REQUIRE_FALSE(syncbn::known_scalar<TooLarge>);
  STATIC_REQUIRE_FALSE(syncbn::known_scalar<NotTrivial>);
  STATIC_REQUIRE_FALSE(syncbn::known_scalar<ForeignFloat>);  // could not be read through a pointer to float
  STATIC_REQUIRE_FALSE(syncbn::readable_by<Image<ForeignFloat>, CpuBackend<float>>);
}

TEST_CASE("tensors for a backend", "[concepts]") {
  using Float = CpuBackend<float>;
  using Double = CpuBackend<double>;
  STATIC_REQUIRE(syncbn::in_memory_of<Image<float>, Float>);
  STATIC_REQUIRE_FALSE(syncbn::in_memory_of<TensorView<float, DeviceSpace>, Float>);
  STATIC_REQUIRE_FALSE(syncbn::in_memory_of<Image<float>, Device>);
  STATIC_REQUIRE_FALSE(syncbn::in_memory_of<Unknown, Float>);

  STATIC_REQUIRE(syncbn::in_format_of<Image<float>, Float>);
  STATIC_REQUIRE(syncbn::in_format_of<const Image<syncbn::Float16>, Float>);
  STATIC_REQUIRE(syncbn::in_format_of<Image<syncbn::BFloat16>, Double>);
  STATIC_REQUIRE(syncbn::in_format_of<Image<double>, Double>);
  STATIC_REQUIRE_FALSE(syncbn::in_format_of<Image<double>, Float>);
  STATIC_REQUIRE_FALSE(syncbn::in_format_of<Image<UnknownElement>, Double>);
  STATIC_REQUIRE_FALSE(syncbn::in_format_of<Image<int>, Double>);

  STATIC_REQUIRE(syncbn::same_format_as<Image<float>, const TensorView<const float>>);
  STATIC_REQUIRE_FALSE(syncbn::same_format_as<Image<float>, Image<double>>);
  STATIC_REQUIRE_FALSE(syncbn::same_format_as<Image<syncbn::Float16>, Image<syncbn::BFloat16>>);

  STATIC_REQUIRE(syncbn::readable_by<const Image<float>, Float>);
  STATIC_REQUIRE(syncbn::readable_by<TensorView<float, DeviceSpace>, Device>);
  STATIC_REQUIRE_FALSE(syncbn::readable_by<const Image<double>, Float>);
  STATIC_REQUIRE_FALSE(syncbn::readable_by<TensorView<float, DeviceSpace>, Float>);
  STATIC_REQUIRE_FALSE(syncbn::readable_by<Unknown, Float>);

  STATIC_REQUIRE(syncbn::writable_by<Image<float>, Float>);
  STATIC_REQUIRE(syncbn::writable_by<Image<float>&, Float>);
  STATIC_REQUIRE_FALSE(syncbn::writable_by<const Image<float>&, Float>);
  STATIC_REQUIRE_FALSE(syncbn::writable_by<Image<double>, Float>);
}
