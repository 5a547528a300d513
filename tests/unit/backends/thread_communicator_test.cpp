#include <syncbn/backends/thread_communicator.hpp>

#include <atomic>
#include <barrier>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

#include <sys/resource.h>

#include <syncbn/all_reduce.hpp>

#include "support/catch.hpp"
#include "support/thread_ranks.hpp"
#include "support/thrown_by.hpp"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SYNCBN_TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define SYNCBN_TEST_SANITIZED 1
#endif
#endif
#if !defined(SYNCBN_TEST_SANITIZED)
#define SYNCBN_TEST_SANITIZED 0
#endif

// What every communicator promises is tested by the conformance suite; here is what threads add.

namespace {

using syncbn::HostQueue;
using syncbn::Index;
using syncbn::ThreadCommunicator;
using syncbn_test::on_thread_ranks;
using syncbn_test::thrown_by;
using Frame = ThreadCommunicator::frame;
using std::chrono::milliseconds;

Frame filled(ThreadCommunicator& c, Index words, double value) {
  Frame frame = c.acquire(words);
  for (Index i = 0; i < words; ++i) frame.data()[i] = value;
  return frame;
}

// What one sum of a word throws; "nothing" if it comes to the number of ranks.
std::string sum_of_ones(ThreadCommunicator& c) {
  return thrown_by([&] {
    HostQueue queue;
    Frame frame = filled(c, 1, 1);
    c.start(frame, queue);
    c.finish(frame, queue);
    if (frame.data()[0] != c.size()) throw syncbn::Error("a wrong sum");
  });
}

// Two ranks in the hands of one thread: each call can be placed exactly.
struct Two {
  std::vector<ThreadCommunicator> ranks = ThreadCommunicator::create(2);
  HostQueue queue;
  ThreadCommunicator& operator[](std::size_t r) { return ranks[r]; }
};

}  // namespace

TEST_CASE("a group has at least one rank", "[thread]") {
  CHECK(thrown_by([] { ThreadCommunicator::create(0); }) == "Error: a group has at least 1 rank, not 0");
  CHECK(thrown_by([] { ThreadCommunicator::create(-3); }) == "Error: a group has at least 1 rank, not -3");
  const auto one = ThreadCommunicator::create(1);
  CHECK(one.size() == 1);
  CHECK(one[0].rank() == 0);
  CHECK(one[0].size() == 1);
}

TEST_CASE("words are added in the order of ranks, whoever comes last", "[thread]") {
  constexpr int ranks = 16;
  const auto word = [](int rank) { return std::ldexp(1.0 + rank / 7.0, (rank * 5) % 30); };
  double expected = 0;
  for (int r = 0; r < ranks; ++r) expected += word(r);
  for (int last = 0; last < ranks; ++last) {
    const auto sums = on_thread_ranks(ranks, [&](ThreadCommunicator c) {
      HostQueue queue;
      Frame frame = filled(c, 1, word(c.rank()));
      if (c.rank() == last) std::this_thread::sleep_for(milliseconds(1));
      c.start(frame, queue);
      c.finish(frame, queue);
      return frame.data()[0];
    });
    CHECK(sums == std::vector<double>(ranks, expected));
  }
}

TEST_CASE("a new frame is zeros, a recycled one too", "[thread]") {
  Two group;
  for (int round = 0; round < 3; ++round) {
    Frame frame = group[0].acquire(5);
    for (int i = 0; i < 5; ++i) {
      REQUIRE(frame.data()[i] == 0);
      frame.data()[i] = 9;
    }
  }
  Frame empty;
  CHECK(empty.size() == 0);
  CHECK(empty.data() == nullptr);
  CHECK(group[0].acquire(0).size() == 0);
}

TEST_CASE("a sum of no words at all", "[thread]") {
  const auto thrown = on_thread_ranks(3, [](ThreadCommunicator c) {
    std::vector<double> none;
    return thrown_by([&] { syncbn::all_reduce_sum(c, none); });
  });
  CHECK(thrown == std::vector<std::string>(3, "nothing"));
}

TEST_CASE("a rank may be 64 frames ahead, and waits for the others then", "[thread]") {
  constexpr int frames = 200;
  const auto sums = on_thread_ranks(3, [](ThreadCommunicator c) {
    HostQueue queue;
    std::vector<Frame> flight;
    for (int k = 0; k < frames; ++k) {
      if (c.rank() == 1 && k % 64 == 0) std::this_thread::sleep_for(milliseconds(1));
      flight.push_back(filled(c, 1 + k % 3, c.rank() + k));
      c.start(flight.back(), queue);
    }
    std::vector<double> result;
    for (std::size_t k = flight.size(); k-- > 0;) {
      c.finish(flight[k], queue);
      result.push_back(flight[k].data()[0]);
    }
    return result;
  });
  std::vector<double> expected;
  for (int k = frames; k-- > 0;) expected.push_back(3 * k + 3);
  for (const auto& result : sums) CHECK(result == expected);
}

TEST_CASE("a frame that was moved in flight is the same frame", "[thread]") {
  Two group;
  Frame a = filled(group[0], 2, 1);
  Frame b = filled(group[1], 2, 2);
  group[0].start(a, group.queue);
  Frame moved = std::move(a);
  group[1].start(b, group.queue);
  group[0].finish(moved, group.queue);
  CHECK(moved.data()[1] == 3);
  Frame assigned;
  assigned = std::move(moved);
  CHECK(assigned.data()[0] == 3);
}

TEST_CASE("64 ranks, more than cores by far", "[thread]") {
  const auto thrown = on_thread_ranks(64, [](ThreadCommunicator c) {
    std::string text = "nothing";
    for (int k = 0; k < 20 && text == "nothing"; ++k) text = sum_of_ones(c);
    return text;
  });
  CHECK(thrown == std::vector<std::string>(64, "nothing"));
}

// ---- Faults ----------------------------------------------------------------------------------------------------------

TEST_CASE("frames of different sizes in one sum: every rank throws, in the same words", "[thread]") {
  for (const int odd_one : {0, 1, 2}) {
    for (const int last : {0, 1, 2}) {
      INFO("rank " << odd_one << " has another size, rank " << last << " comes last");
      const auto thrown = on_thread_ranks(3, [&](ThreadCommunicator c) {
        HostQueue queue;
        Frame frame = filled(c, c.rank() == odd_one ? 7 : 3, 1);
        if (c.rank() == last) std::this_thread::sleep_for(milliseconds(2));
        const std::string text = thrown_by([&] {
          c.start(frame, queue);
          c.finish(frame, queue);
        });
        return text + (c.usable() ? " (usable)" : "");
      });
      const std::string expected = odd_one == 0 ? "7, 3, 3" : odd_one == 1 ? "3, 7, 3" : "3, 3, 7";
      for (const std::string& text : thrown) {
        CHECK(text == "CommunicatorError: frames of different sizes met in one sum: " + expected + " words by rank");
      }
    }
  }
}

TEST_CASE("a rank that does not come is named when the deadline has passed", "[thread]") {
  auto group = ThreadCommunicator::create(4);
  group[0].set_timeout(milliseconds(50));  // for the whole group
  std::vector<std::string> thrown(4);
  {
    std::vector<std::jthread> threads;
    for (const std::size_t r : {0U, 2U}) {
      threads.emplace_back([&, r] { thrown[r] = sum_of_ones(group[r]); });
    }
  }
  CHECK(thrown[0] == "CommunicatorError: no answer within 0.050000 s from rank 1, 3");
  CHECK(thrown[2] == thrown[0]);
  for (const ThreadCommunicator& c : group) CHECK_FALSE(c.usable());
}

TEST_CASE("once a deadline has passed every call throws at once, also on the rank that was late", "[thread]") {
  Two group;
  group[0].set_timeout(milliseconds(20));
  Frame early = filled(group[0], 3, 1);
  group[0].start(early, group.queue);
  const std::string why = thrown_by([&] { group[0].finish(early, group.queue); });
  CHECK(why == "CommunicatorError: no answer within 0.020000 s from rank 1");
  group[0].set_timeout(std::chrono::hours(1));  // nothing waits for it any more
  for (std::size_t r : {0U, 1U}) {
    INFO("rank " << r);
    CHECK_FALSE(group[r].usable());
    Frame frame = filled(group[r], 3, 1);
    CHECK(thrown_by([&] { group[r].start(frame, group.queue); }) == why);
  }
  CHECK(thrown_by([&] { group[0].finish(early, group.queue); }) == why);
  CHECK(early.data()[0] == 1);  // what was late has not arrived behind the owner's back
}

TEST_CASE("a frame that is given up in flight is written to by the sum, and by nobody later", "[thread]") {
  Two group;
  double* words = nullptr;
  {
    Frame lost = filled(group[0], 4, 1);
    words = lost.data();
    group[0].start(lost, group.queue);
  }
  // Not handed out again while the sum may still write to it.
  Frame other = group[0].acquire(4);
  CHECK(other.data() != words);
  Frame late = filled(group[1], 4, 2);
  group[1].start(late, group.queue);
  group[1].finish(late, group.queue);
  CHECK(late.data()[3] == 3);
  CHECK(other.data()[3] == 0);
  // From now on it may be.
  Frame again = group[0].acquire(4);
  CHECK(again.data() == words);
  CHECK(again.data()[0] == 0);
}

TEST_CASE("frames outlive their group's handles", "[thread]") {
  Frame frame;
  {
    auto group = ThreadCommunicator::create(2);
    HostQueue queue;
    frame = filled(group[0], 4, 1);
    group[0].start(frame, queue);
  }
  CHECK(frame.data()[3] == 1);
}

TEST_CASE("the 65th frame waits for the others no longer than the deadline", "[thread]") {
  Two group;
  group[0].set_timeout(milliseconds(20));
  std::vector<Frame> flight;
  for (int k = 0; k < 64; ++k) {
    flight.push_back(filled(group[0], 1, 1));
    group[0].start(flight.back(), group.queue);
  }
  Frame one_more = filled(group[0], 1, 1);
  CHECK(thrown_by([&] { group[0].start(one_more, group.queue); }) ==
        "CommunicatorError: no answer within 0.020000 s from rank 1");
}

TEST_CASE("a deadline counts from when a rank begins to wait, not from when it sent", "[thread]") {
  const auto thrown = on_thread_ranks(2, [](ThreadCommunicator c) {
    c.set_timeout(milliseconds(200));
    return thrown_by([&] {
      HostQueue queue;
      Frame frame = filled(c, 1, 1);
      if (c.rank() == 0) {
        c.start(frame, queue);
        std::this_thread::sleep_for(milliseconds(300));  // its own work, longer than it would wait for anybody
      } else {
        std::this_thread::sleep_for(milliseconds(350));
        c.start(frame, queue);
      }
      c.finish(frame, queue);
    });
  });
  CHECK(thrown == std::vector<std::string>(2, "nothing"));
}

TEST_CASE("where a poll has met the deadline, finish does not wait", "[thread]") {
  Two group;
  group[0].set_timeout(milliseconds(20));
  Frame frame = filled(group[0], 1, 1);
  group[0].start(frame, group.queue);
  std::this_thread::sleep_for(milliseconds(30));  // nobody has asked yet
  CHECK_FALSE(group[0].poll(frame));
  std::this_thread::sleep_for(milliseconds(30));
  CHECK(group[0].poll(frame));
  group[0].set_timeout(std::chrono::hours(24));
  CHECK(thrown_by([&] { group[0].finish(frame, group.queue); }).find("from rank 1") != std::string::npos);
}

TEST_CASE("a timeout of for ever is possible", "[thread]") {
  const auto thrown = on_thread_ranks(2, [](ThreadCommunicator c) {
    c.set_timeout(std::chrono::nanoseconds::max());
    if (c.rank() == 1) std::this_thread::sleep_for(milliseconds(20));
    return sum_of_ones(c);
  });
  CHECK(thrown == std::vector<std::string>(2, "nothing"));
}

// ---- Ranks that leave ------------------------------------------------------------------------------------------------

TEST_CASE("a rank that leaves is not waited for", "[thread]") {
  Two group;
  Frame frame = filled(group[0], 1, 1);
  group[0].start(frame, group.queue);
  group[1].leave();
  CHECK(thrown_by([&] { group[0].finish(frame, group.queue); }) == "CommunicatorError: rank 1 has left the group");
  CHECK_FALSE(group[0].usable());
}

TEST_CASE("a rank that leaves with an error says why", "[thread]") {
  Two group;
  group[1].leave("out of luck");
  CHECK_FALSE(group[0].usable());
  CHECK(sum_of_ones(group[0]) == "CommunicatorError: rank 1 left with an error: out of luck");
}

TEST_CASE("sums that were complete when a rank left are still delivered", "[thread]") {
  for (const char* why : {"", "an error"}) {
    Two group;
    Frame a = filled(group[0], 1, 1);
    Frame b = filled(group[1], 1, 1);
    group[0].start(a, group.queue);
    group[1].start(b, group.queue);
    group[1].leave(why);
    CHECK(thrown_by([&] { group[0].finish(a, group.queue); }) == "nothing");
    CHECK(a.data()[0] == 2);
  }
}

TEST_CASE("a waiting rank learns at once of another that leaves", "[thread]") {
  auto group = ThreadCommunicator::create(3);  // with a timeout of 10 minutes
  std::vector<std::string> thrown(3);
  {
    std::vector<std::jthread> threads;
    for (const std::size_t r : {0U, 1U}) {
      threads.emplace_back([&, r] { thrown[r] = sum_of_ones(group[r]); });
    }
    std::this_thread::sleep_for(milliseconds(10));
    group[2].leave("gone");
  }
  CHECK(thrown[0] == "CommunicatorError: rank 2 left with an error: gone");
  CHECK(thrown[1] == thrown[0]);
}

TEST_CASE("run_thread_ranks gives each rank its communicator", "[thread]") {
  std::vector<int> sizes(5);
  syncbn::run_thread_ranks(5, [&](ThreadCommunicator c) { sizes[static_cast<std::size_t>(c.rank())] = c.size(); });
  CHECK(sizes == std::vector<int>(5, 5));
}

TEST_CASE("run_thread_ranks throws what a rank threw first, and no rank waits for it", "[thread]") {
  // All but rank 2 wait for a sum that cannot come, for 10 minutes if nobody told them.
  const std::string thrown = thrown_by([] {
    syncbn::run_thread_ranks(4, [](ThreadCommunicator c) {
      if (c.rank() == 2) throw syncbn::ShapeError("the cause");
      std::vector<double> word(1);
      syncbn::all_reduce_sum(c, word);
    });
  });
  CHECK(thrown == "ShapeError: the cause");
  struct Strange {};
  CHECK_THROWS_AS(syncbn::run_thread_ranks(2,
                                           [](ThreadCommunicator c) {
                                             if (c.rank() == 1) throw Strange();
                                             std::vector<double> word(1);
                                             syncbn::all_reduce_sum(c, word);
                                           }),
                  Strange);
}

TEST_CASE("run_thread_ranks: no rank waits, in a group made by split either, for one that threw", "[thread]") {
  std::vector<std::string> thrown(3);
  CHECK(thrown_by([&] {
          syncbn::run_thread_ranks(3, [&](ThreadCommunicator c) {
            c.set_timeout(std::chrono::seconds(3));
            ThreadCommunicator part = c.split(0, c.rank());
            if (c.rank() == 2) throw syncbn::Error("the cause");
            thrown[static_cast<std::size_t>(c.rank())] = sum_of_ones(part);
          });
        }) == "Error: the cause");
  for (const std::size_t r : {0U, 1U}) {
    INFO(thrown[r]);
    CHECK(thrown[r].find("left") != std::string::npos);       // it was told,
    CHECK(thrown[r].find("no answer") == std::string::npos);  // and did not wait until the deadline
  }
}

// ---- Split -----------------------------------------------------------------------------------------------------------

#if !SYNCBN_TEST_SANITIZED  // sanitizers need more addresses than there are then
TEST_CASE("run_thread_ranks: a thread that cannot be started keeps nobody waiting", "[thread]") {
  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_AS, &before) == 0);
  std::ifstream pages_of_this("/proc/self/statm");
  rlim_t pages = 0;
  REQUIRE(pages_of_this >> pages);
  rlimit little = before;
  little.rlim_cur = pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE)) + (rlim_t{100} << 20U);
  std::mutex mutex;
  std::vector<std::string> thrown_in_ranks;
  REQUIRE(setrlimit(RLIMIT_AS, &little) == 0);
  const std::string thrown = thrown_by([&] {
    syncbn::run_thread_ranks(200, [&](ThreadCommunicator c) {
      c.set_timeout(std::chrono::seconds(30));
      const std::string mine = sum_of_ones(c);
      const std::lock_guard lock(mutex);
      thrown_in_ranks.push_back(mine);
    });
  });
  REQUIRE(setrlimit(RLIMIT_AS, &before) == 0);
  CHECK(thrown != "nothing");
  CHECK_FALSE(thrown_in_ranks.empty());
  for (const std::string& mine : thrown_in_ranks) CHECK(mine.find("no thread for this rank") != std::string::npos);
}
#endif

TEST_CASE("split refuses a negative color, on every rank", "[thread]") {
  const auto thrown = on_thread_ranks(3, [](ThreadCommunicator c) {
    const std::string text = thrown_by([&] { static_cast<void>(c.split(c.rank() == 1 ? -1 : 0, 0)); });
    return text + "; " + sum_of_ones(c);
  });
  CHECK(thrown == std::vector<std::string>(3, "Error: split: rank 1 gave a negative color; nothing"));
}

TEST_CASE("split orders by key, then by rank; extreme keys and colors too", "[thread]") {
  const auto ranks = on_thread_ranks(4, [](ThreadCommunicator c) {
    const int keys[] = {7, -2147483647, 7, 2147483647};
    ThreadCommunicator part = c.split(2147483647, keys[c.rank()]);
    return std::pair(part.rank(), sum_of_ones(part));
  });
  CHECK(ranks[0].first == 1);
  CHECK(ranks[1].first == 0);
  CHECK(ranks[2].first == 2);
  CHECK(ranks[3].first == 3);
  for (const auto& r : ranks) CHECK(r.second == "nothing");
}

TEST_CASE("a part has its whole's timeout, and its own faults", "[thread]") {
  const auto thrown = on_thread_ranks(4, [](ThreadCommunicator c) {
    c.set_timeout(milliseconds(30));
    ThreadCommunicator part = c.split(c.rank() / 2, 0);
    std::vector<std::string> texts{sum_of_ones(c)};  // all have come out of split()
    c.set_timeout(std::chrono::seconds(60));
    if (c.rank() != 1) texts.push_back(sum_of_ones(part));  // rank 0 waits for rank 1 in vain
    texts.push_back(sum_of_ones(c));
    texts.push_back(part.usable() ? "usable" : "not usable");
    return texts;
  });
  CHECK(thrown[0] == std::vector<std::string>{"nothing", "CommunicatorError: no answer within 0.030000 s from rank 1",
                                              "nothing", "not usable"});
  CHECK(thrown[2] == std::vector<std::string>{"nothing", "nothing", "nothing", "usable"});
  CHECK(thrown[3] == thrown[2]);
}

TEST_CASE("many groups from one, over and over", "[thread]") {
  const auto ok = on_thread_ranks(6, [](ThreadCommunicator c) {
    for (int round = 1; round < 30; ++round) {
      ThreadCommunicator part = c.split((c.rank() * round) % 3, (c.rank() * 7 + round) % 5);
      if (sum_of_ones(part) != "nothing") return false;
    }
    return sum_of_ones(c) == "nothing";
  });
  CHECK(ok == std::vector<bool>(6, true));
}

TEST_CASE("layers are numbered for each rank by itself", "[thread]") {
  Two group;
  CHECK(group[0].next_ordinal() == 0);
  CHECK(group[0].next_ordinal() == 1);
  CHECK(group[1].next_ordinal() == 0);
  ThreadCommunicator copy = group[1];
  CHECK(copy.next_ordinal() == 1);
}
