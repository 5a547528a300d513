#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include <syncbn/concepts.hpp>
#include <syncbn/detail/agreement.hpp>
#include <syncbn/detail/block_frames.hpp>
#include <syncbn/detail/call.hpp>
#include <syncbn/detail/header_frame.hpp>
#include <syncbn/detail/named_group.hpp>
#include <syncbn/detail/plan.hpp>

// What an Exchange works with: its frames, how far the sums under way have come, and what is done where they are bad.

namespace syncbn::inline v0::detail {

template <class Communicator>
struct ExchangeRun {
  using Queue = typename Communicator::queue_type;
  using Frame = typename Communicator::frame;

  ExchangeRun(Communicator handle, std::string name) : group(std::move(handle), std::move(name)) {
    if (group.communicator.size() > 1) header.acquire(group.communicator);
  }
  // Frames of its own.
  ExchangeRun(const ExchangeRun& other)
      : group(other.group), sequence(other.sequence), waits_for_header(other.waits_for_header), planner(other.planner) {
    if (other.header.acquired()) header.acquire(group.communicator);
    const Plan& its = other.frames.plan();
    if (other.frames.fit(its)) frames.reserve(group.communicator, planner.plan(its.words));
  }
  ExchangeRun(ExchangeRun&&) = default;
  ExchangeRun& operator=(const ExchangeRun& other) { return *this = ExchangeRun(other); }
  ExchangeRun& operator=(ExchangeRun&&) = default;
  ~ExchangeRun() = default;

  template <class Pack>
  void start_header(const Pack& pack) {
    header.write(count, failure->failed(), by_blocks, fingerprint);
    if (!failure->failed()) pack(header.payload());
    at.open = true;
    start_frame(header.frame());
  }

  void judge_header() {
    finish_frame(header.frame());
    const int ranks = group.communicator.size();
    if (!header.is_whole(ranks)) throw_mixed_up();
    total_count = header.count();
    by_blocks = header.by_blocks();
    at.judged = true;
    if (header.is_good(ranks)) return;
    // Without waiting, blocks are under way.
    if (plan.travels_alone() && !waits_for_header) bring_home();
    throw_together();
  }

  bool has_room() const noexcept { return at.started - at.landed < most_blocks_under_way; }

  // Waits for the sums of the blocks up to this one.
  void land(Index block) {
    for (; at.landed <= block; ++at.landed) finish_frame(frames[at.landed]);
  }

  template <class Pack>
  void start_block(Index block, const Pack& pack) {
    frames.write(block, failure->failed(), pack);
    start_frame(frames[block]);
  }

  // Of a block that has landed.
  const double* sums_of(Index block) {
    if (!frames.is_whole(block, group.communicator.size())) throw_mixed_up();
    if (!frames.has_failures(block)) return frames.payload(block);
    if (at.finished < plan.blocks()) bring_home();
    throw_together();
  }

  // A bad verdict: every rank sends the blocks that it has not sent yet, and waits for all, before the error round.
  void bring_home() {
    for (; at.started < plan.blocks(); ++at.started) {
      if (!has_room()) land(at.landed);
      start_block(at.started, [](double*) {});
    }
    land(plan.blocks() - 1);
  }

  void complete() noexcept {
    ++sequence;
    at.open = false;
    if (!by_blocks) return;
    planner.take(total_count, call, group.communicator.size());
    frames.prepare(group.communicator, planner.plan(plan.words));
  }

  // Nobody knows what is still under way, and nobody may write to it: other frames next time.
  void let_go() noexcept {
    header.drop();
    frames.drop();
    plan = {};
    at = {};
  }
  [[noreturn]] void throw_mixed_up() {
    let_go();
    throw CommunicatorError(where() + "frames of different exchanges met in one sum");
  }

  [[noreturn]] void throw_together() {
    at.open = false;
    const auto sum = [&] {
      group.communicator.start(header.frame(), *queue);
      group.communicator.finish(header.frame(), *queue);
    };
    at_fabric([&] {
      detail::throw_together(header.words(), group.communicator.rank(), group.communicator.size(), fingerprint,
                             *failure, group.name(), sum,
                             [&] { return describe(call, plan.blocks(), group.name(), sequence); });
    });
    throw Error("unreachable");
  }

  void start_frame(Frame& frame) {
    at_fabric([&] { group.communicator.start(frame, *queue); });
  }
  void finish_frame(Frame& frame) {
    at_fabric([&] { group.communicator.finish(frame, *queue); });
  }
  // Tells which call a fault of the fabric belongs to.
  template <class F>
  void at_fabric(const F& f) {
    try {
      f();
    } catch (const CommunicatorError& e) {
      let_go();
      throw CommunicatorError(where() + e.what());
    }
  }
  std::string where() const { return group.where(call.operation, sequence); }

  NamedGroup<Communicator> group;
  std::uint64_t sequence = 0;
  bool waits_for_header = true;
  Planner planner;
  HeaderFrame<Communicator> header;
  BlockFrames<Communicator> frames;

  // The exchange under way.
  ExchangeCall call;
  Plan plan;
  Progress at;
  bool by_blocks = false;
  double count = 0;
  double total_count = 0;
  std::uint64_t fingerprint = 0;
  const RankFailure* failure = nullptr;
  Queue* queue = nullptr;
};

}  // namespace syncbn::inline v0::detail
