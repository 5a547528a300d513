#include "thread_block.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "device_variables.hpp"
#include "options.hpp"
#include "sanitizers.hpp"

namespace cuda_emulation {

ThreadBlock& ThreadBlock::current() {
  static thread_local ThreadBlock block;
  return block;
}

std::string ThreadBlock::who(const Thread& thread) const {
  const auto text = [](auto v) {
    return "(" + std::to_string(v.x) + "," + std::to_string(v.y) + "," + std::to_string(v.z) + ")";
  };
  return "block " + text(blockIdx) + " thread " + text(thread.index);
}

void ThreadBlock::report(std::string_view what) {
  violate(std::string(what) + ", " + who(*current_));
  broken_ = true;
  release(&end_tag_);
}
// What the thread's stack holds is never destroyed: it must own no memory.
void ThreadBlock::break_off(std::string_view what) {
  report(what);
  current_->fiber.leave();
}
void ThreadBlock::misaligned(std::size_t bytes) {
  {
    const Unseen unseen;
    report("an address of global memory is not a multiple of " + std::to_string(bytes) + " bytes");
  }
  current_->fiber.leave();
}

// ---- Threads ---------------------------------------------------------------------------------------------------------

void ThreadBlock::thread_main() {
  ThreadBlock& block = current();
  fiber_begins(block.current_->fiber);
  acquire(&block.begin_tag_);
  (*block.body_)();
  {
    const Unseen unseen;
    block.exits();
  }
  release(&block.end_tag_);
  block.current_->fiber.leave();
}

void ThreadBlock::prepare(dim3 shape) {
  size_ = alive_ = shape.x * shape.y * shape.z;
  broken_ = false;
  at_barrier_ = 0;
  votes_ = {0, 1, 0};
  while (threads_.size() < size_) threads_.push_back(std::make_unique<Thread>());
  warps_.assign((size_ + lanes_of_warp - 1) / lanes_of_warp, Warp());
  unsigned number = 0;
  for (unsigned z = 0; z < shape.z; ++z) {
    for (unsigned y = 0; y < shape.y; ++y) {
      for (unsigned x = 0; x < shape.x; ++x, ++number) {
        Thread& t = *threads_[number];
        t.index = {x, y, z};
        t.number = number;
        t.state = State::ready;
        t.collectives = 0;
        t.fiber.prepare(&ThreadBlock::thread_main);
        warps_[number / lanes_of_warp].existing |= t.bit();
      }
    }
  }
  order_.resize(size_);
  std::iota(order_.begin(), order_.end(), 0U);
  if (options().order == Order::descending) std::reverse(order_.begin(), order_.end());
}

bool ThreadBlock::run(const std::function<void()>& body, dim3 shape, unsigned seed) {
  const Unseen unseen;
  body_ = &body;
  random_.seed(seed);
  prepare(shape);
  release(&begin_tag_);
  schedule();
  acquire(&end_tag_);
  for (unsigned i = 0; i < size_ && broken_; ++i) threads_[i]->fiber.abandon();
  current_ = nullptr;
  return !broken_;
}

void ThreadBlock::schedule() {
  while (alive_ > 0) {
    if (options().order == Order::shuffled) std::shuffle(order_.begin(), order_.end(), random_);
    bool progress = false;
    for (const unsigned i : order_) {
      Thread& t = *threads_[i];
      if (t.state != State::ready) continue;
      progress = true;
      current_ = &t;
      threadIdx = t.index;
      t.fiber.resume();
      if (broken_) return;
    }
    if (!progress) return report_deadlock();
  }
}

void ThreadBlock::report_deadlock() {
  constexpr int most_named = 4;
  std::string text = "deadlock:";
  int named = 0;
  for (unsigned i = 0; i < size_ && named < most_named; ++i) {
    const Thread& t = *threads_[i];
    if (t.state == State::done) continue;
    text += " [" + who(t) + (t.state == State::at_barrier ? " at __syncthreads]" : " in a collective of its warp]");
    ++named;
  }
  violate(text);
  broken_ = true;
}

void ThreadBlock::wait(State state) {
  current_->state = state;
  release(&end_tag_);  // it may never go on
  current_->fiber.suspend();
}

void ThreadBlock::exits() {
  Thread& me = *current_;
  me.state = State::done;
  --alive_;
  Warp& warp = warps_[me.number / lanes_of_warp];
  warp.exited |= me.bit();
  if (at_barrier_ > 0) break_off("a thread exits while others wait at __syncthreads");
  for (const Meeting& meeting : warp.meetings) {
    if ((meeting.mask & me.bit()) != 0) break_off("a lane exits that others wait for in a collective of its warp");
  }
}

// ---- Barriers --------------------------------------------------------------------------------------------------------

BarrierResult ThreadBlock::barrier(bool predicate, Site site) {
  const Unseen unseen;
  ++current_->collectives;
  if (alive_ < size_) break_off("__syncthreads after threads of the block have exited");
  if (at_barrier_ > 0 && (site.line != site_.line || std::strcmp(site.file, site_.file) != 0)) {
    break_off("threads of a block meet at different calls of __syncthreads");
  }
  site_ = site;
  votes_.count += predicate ? 1 : 0;
  votes_.all &= predicate ? 1 : 0;
  votes_.any |= predicate ? 1 : 0;
  release(&barrier_tag_);
  if (++at_barrier_ == alive_) {
    open_barrier();
  } else {
    wait(State::at_barrier);
  }
  acquire(&barrier_tag_);
  return result_;
}

void ThreadBlock::open_barrier() {
  at_barrier_ = 0;
  result_ = votes_;
  votes_ = {0, 1, 0};
  for (unsigned i = 0; i < size_; ++i) {
    if (threads_[i]->state == State::at_barrier) threads_[i]->state = State::ready;
  }
}

// ---- Warps -----------------------------------------------------------------------------------------------------------

void ThreadBlock::warp(WarpCall& call) {
  const Unseen unseen;
  Thread& me = *current_;
  ++me.collectives;
  Warp& warp = warps_[me.number / lanes_of_warp];
  if ((call.mask & me.bit()) == 0) break_off("a lane calls a collective of its warp without being in the mask");
  if ((call.mask & warp.exited) != 0) break_off("the mask of a collective names a lane that has exited");
  Meeting* meeting = nullptr;
  for (Meeting& m : warp.meetings) {
    if ((m.mask & call.mask) == 0) continue;
    if (m.mask != call.mask || m.operation != call.operation) {
      break_off("lanes of a warp meet with different masks or operations");
    }
    meeting = &m;
  }
  if (meeting == nullptr) {
    warp.meetings.push_back({call.mask, 0, call.operation});
    meeting = &warp.meetings.back();
  }
  me.call = &call;
  meeting->arrived |= me.bit();
  const bool orders_memory = call.operation == WarpOperation::sync;
  if (orders_memory) release(&warp.tag);
  if (meeting->arrived == (meeting->mask & warp.existing)) {
    const Meeting whole = *meeting;
    warp.meetings.erase(warp.meetings.begin() + (meeting - warp.meetings.data()));
    complete(whole, me.number / lanes_of_warp * lanes_of_warp);
  } else {
    wait(State::in_warp);
  }
  if (orders_memory) acquire(&warp.tag);
}

template <class T>
T ThreadBlock::reduced(const Meeting& meeting, unsigned first_thread, WarpOperation operation) const {
  bool is_first = true;
  T result{};
  for (unsigned lane = 0; lane < lanes_of_warp; ++lane) {
    if ((meeting.arrived >> lane & 1U) == 0) continue;
    T value;
    std::memcpy(&value, threads_[first_thread + lane]->call->value, sizeof value);
    if (is_first) {
      result = value;
    } else if (operation == WarpOperation::add) {
      result = static_cast<T>(result + value);
    } else {
      result = operation == WarpOperation::min ? std::min(result, value) : std::max(result, value);
    }
    is_first = false;
  }
  return result;
}

// The lane that a shuffle reads.
static unsigned source_of(const WarpCall& call, unsigned lane) {
  const unsigned base = lane & ~(call.width - 1);
  switch (call.operation) {
    case WarpOperation::read:
      return base + (call.argument & (call.width - 1));
    case WarpOperation::read_up:
      return lane - base >= call.argument ? lane - call.argument : lane;
    case WarpOperation::read_down:
      return lane - base + call.argument < call.width ? lane + call.argument : lane;
    default: {
      const unsigned source = lane ^ call.argument;
      return source < base + call.width ? source : lane;
    }
  }
}

void ThreadBlock::complete(const Meeting& meeting, unsigned first_thread) {
  unsigned ballot = 0;
  std::array<std::array<std::byte, 16>, lanes_of_warp> values;
  const auto call_of = [&](unsigned lane) -> WarpCall& { return *threads_[first_thread + lane]->call; };
  const auto has = [&](unsigned lane) { return (meeting.arrived >> lane & 1U) != 0; };
  for (unsigned lane = 0; lane < lanes_of_warp; ++lane) {
    values[lane].fill(std::byte{0xff});  // what a lane that does not take part has: anything, here NaN
    if (!has(lane)) continue;
    std::memcpy(values[lane].data(), call_of(lane).value, 16);
    if (call_of(lane).predicate) ballot |= 1U << lane;
  }
  unsigned sum = 0;
  if (meeting.operation >= WarpOperation::add) sum = reduced<unsigned>(meeting, first_thread, meeting.operation);
  for (unsigned lane = 0; lane < lanes_of_warp; ++lane) {
    if (!has(lane)) continue;
    WarpCall& call = call_of(lane);
    switch (meeting.operation) {
      case WarpOperation::sync:
        break;
      case WarpOperation::ballot:
        call.result = ballot;
        break;
      case WarpOperation::any:
        call.result = ballot != 0 ? 1 : 0;
        break;
      case WarpOperation::all:
        call.result = ballot == meeting.arrived ? 1 : 0;
        break;
      case WarpOperation::add:
      case WarpOperation::min:
      case WarpOperation::max:
        call.result = sum;
        break;
      default:
        std::memcpy(call.value, values[source_of(call, lane)].data(), 16);
    }
    threads_[first_thread + lane]->state = State::ready;
  }
}

}  // namespace cuda_emulation
