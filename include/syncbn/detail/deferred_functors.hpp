#pragma once

#include <cstdint>
#include <limits>

#include <syncbn/concepts.hpp>
#include <syncbn/detail/call.hpp>
#include <syncbn/detail/channel_functors.hpp>
#include <syncbn/detail/deferred_frame.hpp>

// An exchange as the backend's queue does it. JudgeDeferred comes to the verdict and keeps the books; what follows reads it,
// channel by channel. A bad one is a count of -1 and moments that are NaN: what comes after makes NaN of activations, and
// leaves running statistics, counter and gradients of parameters alone.

namespace syncbn::inline v0::detail {
inline namespace SYNCBN_CPU_ISA {

inline constexpr double nothing_known = std::numeric_limits<double>::quiet_NaN();
// At both ends of the second frame, where the first one has 1: should they meet, neither is whole.
inline constexpr int second_tag = 2;

// The books of a layer's exchanges, where kernels reach them.
struct DeferredBooks {
  double* sequence;       // exchanges that ended well
  double* verdict;        // the last Ending
  double* report;         // a Report for the host, or 0
  const double* stopped;  // the communicator's
};

// One rank's call, and the frames that carry it.
struct DeferredCall {
  DeferredFrame frame;
  double* first;
  double* second;
  DeferredBooks books;
  std::uint64_t fingerprint;    // of what the host knows
  const std::int64_t* batches;  // null where there are none
  double count;                 // of values per channel on this rank
  int rank;
  int ranks;
  bool failed;  // on this rank, which then throws itself
  bool needs_several_values;

  SYNCBN_HOST_DEVICE void write_header() const noexcept {
    Fingerprint all(fingerprint);
    all.add(static_cast<std::uint64_t>(*books.sequence));
    all.add(static_cast<std::uint64_t>(batches == nullptr ? -1 : *batches));
    detail::write_header(first, count, failed, false, all.value(), frame.trailing());
    for (Index i = DeferredFrame::bits; i < frame.payload(); ++i) first[i] = 0;
    if (failed) set_rank(first + DeferredFrame::bits, rank);
  }

  SYNCBN_HOST_DEVICE double total_count() const noexcept { return first[header::count]; }

  // What the words of the first frame say: the same to every channel, and on every rank.
  SYNCBN_HOST_DEVICE Ending first_ending() const noexcept {
    if (!frame_is_whole(first[header::leading], first[frame.trailing()], ranks)) return Ending::mixed_up;
    if (first[header::failures] != 0) return Ending::failure;
    if (!digits_agree(first, ranks)) return Ending::disagreement;
    return needs_several_values && total_count() == 1 ? Ending::single_value : Ending::good;
  }
  SYNCBN_HOST_DEVICE bool second_is_whole() const noexcept {
    return frame_is_whole(second[0], second[frame.second_trailing()], second_tag * ranks);
  }
  SYNCBN_HOST_DEVICE bool is_good() const noexcept { return *books.verdict == static_cast<double>(Ending::good); }

  // The first bad end that the host has not seen is kept.
  SYNCBN_HOST_DEVICE void close(Ending ending) const noexcept {
    if (ending == Ending::good) {
      *books.sequence += 1;
      return;
    }
    volatile double* const report = books.report;
    if (failed || ending == Ending::given_up || *report != 0) return;
    const int speaker = ending == Ending::failure ? lowest_rank(first + DeferredFrame::bits, ranks) : 0;
    if (speaker < 0) ending = Ending::mixed_up;  // failures of nobody
    *report = Report{ending, speaker < 0 ? 0 : speaker, static_cast<std::int64_t>(*books.sequence)}.word();
  }
};

// The one place where it is decided. Sums that were given up may look like anything: that is looked at first, and once, for
// the host may give up at any moment.
struct JudgeDeferred {
  DeferredCall call;
  bool has_second;

  SYNCBN_HOST_DEVICE void operator()(Index) const noexcept {
    Ending ending = call.first_ending();
    if (ending == Ending::good && has_second && !call.second_is_whole()) ending = Ending::mixed_up;
    if (*static_cast<const volatile double*>(call.books.stopped) != 0) ending = Ending::given_up;
    *call.books.verdict = static_cast<double>(ending);
    call.close(ending);
  }
};

// The first frame of this rank. Pack writes a channel's words.
template <class Pack>
struct SendDeferred {
  DeferredCall call;
  Pack pack;
  Index channels;

  SYNCBN_HOST_DEVICE void operator()(Index c) const noexcept {
    if (c == 0) call.write_header();
    if (c < channels && !call.failed) pack(c);
  }
};

// Of those that receive, a rank that failed has no channels: it may have no memory for results.

struct ReceiveDeferredSums {
  DeferredCall call;
  CopyPairs unpack;
  double *local, *local_centred;  // this rank's, zeros after a bad end so that they can be added; or null
  Index channels;

  SYNCBN_HOST_DEVICE void operator()(Index c) const noexcept {
    if (c >= channels) return;
    if (call.is_good()) return unpack(c);
    unpack.first_out[c] = nothing_known;
    unpack.second_out[c] = nothing_known;
    if (local == nullptr) return;
    local[c] = 0;
    local_centred[c] = 0;
  }
};

// The moments by the first sums, and this rank's part of the centred ones.
struct ReceiveDeferredMoments {
  DeferredCall call;
  double limit;  // of cancellation
  MomentsPointers global;
  PackCentredMoments pack;
  Index channels;

  SYNCBN_HOST_DEVICE void operator()(Index c) const noexcept {
    if (c == 0) {
      call.second[0] = second_tag;
      call.second[call.frame.second_trailing()] = second_tag;
    }
    if (c >= channels || call.first_ending() != Ending::good) return;
    const double* words = call.first + call.frame.payload();
    UnpackMoments{call.total_count(), words, limit, global.count, global.mean, global.m2}(c);
    pack(c);
  }
};

struct ReceiveDeferredCentred {
  DeferredCall call;
  MomentsPointers global;
  Index channels;

  SYNCBN_HOST_DEVICE void operator()(Index c) const noexcept {
    const bool good = call.is_good();
    if (c == 0 && global.count != nullptr) *global.count = good ? call.total_count() : -1;
    if (c >= channels) return;
    if (good) {
      const double* words = call.second + DeferredFrame::second_payload;
      return UnpackCentredMoments{call.total_count(), words, global.mean, global.m2}(c);
    }
    global.mean[c] = nothing_known;
    global.m2[c] = nothing_known;
  }
};

}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0::detail
