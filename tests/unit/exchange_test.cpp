#include <syncbn/exchange.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <syncbn/all_reduce.hpp>
#include <syncbn/backends/single_process_communicator.hpp>
#include <syncbn/backends/thread_communicator.hpp>

#include "support/catch.hpp"
#include "support/echo_communicator.hpp"
#include "support/failing_communicator.hpp"
#include "support/recording_communicator.hpp"
#include "support/thread_ranks.hpp"
#include "support/thrown_by.hpp"

namespace {

using syncbn::Exchange;
using syncbn::ExchangeCall;
using syncbn::Index;
using syncbn::RankFailure;
using syncbn::ThreadCommunicator;
using syncbn_test::on_thread_ranks;
using syncbn_test::Record;
using syncbn_test::RecordingCommunicator;
using syncbn_test::thrown_by;
using Recording = RecordingCommunicator<ThreadCommunicator>;

// The most words that travel with the header, and the fewest that do not.
constexpr Index in_one_frame = 495;
constexpr Index in_two_frames = 496;

// What one rank does in one exchange.
struct Part {
  Index words = 1;
  double first = 1;  // word i is first + i
  double count = 3;
  const char* early = nullptr;  // what fails before begin()
  const char* late = nullptr;   // what fails between begin() and start() of
  Index late_block = 0;         // this block
  ExchangeCall call = {};
  bool by_blocks = false;
  int rounds_more = 0;  // calls of again()
};

// One exchange; the sums.
template <class Communicator>
std::vector<double> exchange_once(Exchange<Communicator>& exchange, const Part& part) {
  RankFailure failure;
  syncbn::HostQueue queue;
  exchange.reserve(part.words);
  if (part.early != nullptr) failure.capture([&] { throw syncbn::ShapeError(part.early); });
  std::vector<double> sums(static_cast<std::size_t>(part.words));
  const auto words_of = [&](Index block) {
    return std::pair(exchange.first_word(block), exchange.first_word(block + 1));
  };
  const auto pack = [&](Index block) {
    return [&, block](double* words) {
      const auto [first, last] = words_of(block);
      for (Index i = first; i < last; ++i) words[i - first] = part.first + static_cast<double>(i);
    };
  };
  const auto keep = [&](Index block, const double* from) {
    const auto [first, last] = words_of(block);
    std::copy_n(from, last - first, sums.begin() + first);
  };
  exchange.begin(part.call, part.words, part.count, failure, queue, part.by_blocks);
  for (Index block = 0; block < exchange.blocks(); ++block) {
    if (part.late != nullptr && block == part.late_block) {
      failure.capture([&] { throw syncbn::Error(part.late); });
    }
    exchange.start(pack(block));
  }
  for (Index block = 0; block < exchange.blocks(); ++block) keep(block, exchange.finish());
  for (int round = 0; round < part.rounds_more; ++round) {
    for (Index block = exchange.blocks(); block-- > 0;) keep(block, exchange.again(pack(block), block));
  }
  return sums;
}

std::vector<double> expected_sums(Index words, double first_sum, int ranks) {
  std::vector<double> sums;
  for (Index i = 0; i < words; ++i) sums.push_back(first_sum + static_cast<double>(i) * ranks);
  return sums;
}

// What each rank saw of one exchange: its exception, and the frames it started.
struct Seen {
  std::string thrown;
  std::vector<Index> frames;
  std::uint64_t sequence = 0;
  std::string afterwards;  // what the next exchange throws
};

// One exchange on each rank, in which `part_of(rank)` is what it does; then another, in which all is well.
template <class PartOf>
std::vector<Seen> seen_by_all(int ranks, bool waits, const PartOf& part_of) {
  return on_thread_ranks(ranks, [&](ThreadCommunicator c) {
    Recording recording(c);
    Exchange<Recording> exchange(recording, "layer");
    exchange.set_waits_for_header(waits);
    Seen seen;
    seen.thrown = thrown_by([&] { exchange_once(exchange, part_of(c.rank())); });
    seen.frames = recording.record().started;
    seen.sequence = exchange.sequence();
    seen.afterwards = thrown_by([&] {
      if (exchange_once(exchange, {}) != expected_sums(1, c.size(), c.size())) throw syncbn::Error("wrong sums");
    });
    return seen;
  });
}

void check_all_saw(const std::vector<Seen>& all, const std::string& thrown, const std::vector<Index>& frames) {
  for (std::size_t r = 0; r < all.size(); ++r) {
    INFO("rank " << r);
    CHECK(all[r].thrown == thrown);
    CHECK(all[r].frames == frames);
    CHECK(all[r].sequence == 0);
    CHECK(all[r].afterwards == "nothing");
  }
}

}  // namespace

TEST_CASE("an exchange sums the words and the counts of all ranks", "[exchange]") {
  for (const int ranks : {1, 2, 5}) {
    for (const Index words : {Index{0}, Index{1}, in_one_frame, in_two_frames, Index{4096}}) {
      for (const bool waits : {true, false}) {
        INFO(ranks << " ranks, " << words << " words" << (waits ? "" : ", without waiting for the header"));
        const auto sums = on_thread_ranks(ranks, [&](ThreadCommunicator c) {
          Exchange<ThreadCommunicator> exchange(c);
          exchange.set_waits_for_header(waits);
          std::vector<double> result;
          for (int repetition = 0; repetition < 3; ++repetition) {
            Part part;
            part.words = words;
            part.first = c.rank();
            part.count = c.rank() == 0 ? 0x1p40 : 0;
            part.rounds_more = repetition;
            result = exchange_once(exchange, part);
            if (exchange.total_count() != 0x1p40) result.clear();
          }
          result.push_back(static_cast<double>(exchange.sequence()));
          return result;
        });
        std::vector<double> expected = expected_sums(words, ranks * (ranks - 1) / 2.0, ranks);
        expected.push_back(3);
        for (const auto& s : sums) CHECK(s == expected);
      }
    }
  }
}

TEST_CASE("a process alone may exchange too", "[exchange]") {
  Exchange<syncbn::SingleProcessCommunicator> exchange{syncbn::SingleProcessCommunicator()};
  Part part;
  part.words = in_two_frames;
  CHECK(exchange_once(exchange, part) == expected_sums(in_two_frames, 1, 1));
  part.words = 3;
  CHECK(exchange_once(exchange, part) == expected_sums(3, 1, 1));
  part.early = "wrong";
  CHECK(thrown_by([&] { exchange_once(exchange, part); }) == "ShapeError: wrong [rank 0 of 1] [layer '']");
}

TEST_CASE("the frames are those that are documented", "[exchange]") {
  const auto frames = [](Index words, bool waits, int rounds_more) {
    Part part;
    part.words = words;
    part.rounds_more = rounds_more;
    const std::vector<Seen> all = seen_by_all(2, waits, [&](int) { return part; });
    CHECK(all[0].thrown == "nothing");
    CHECK(all[1].frames == all[0].frames);
    return all[0].frames;
  };
  for (const bool waits : {true, false}) {
    CHECK(frames(2, waits, 0) == std::vector<Index>{512});
    CHECK(frames(in_one_frame, waits, 0) == std::vector<Index>{512});
    CHECK(frames(in_two_frames, waits, 0) == std::vector<Index>{512, in_two_frames + 3});
    CHECK(frames(4096, waits, 0) == std::vector<Index>{512, 4099});
    CHECK(frames(2, waits, 1) == std::vector<Index>{512, 5});
    CHECK(frames(4096, waits, 1) == std::vector<Index>{512, 4099, 4099});
  }
}

TEST_CASE("a rank that failed before the exchange makes all throw its words", "[exchange]") {
  for (const Index words : {Index{2}, in_two_frames}) {
    INFO(words << " words");
    const auto part_of = [&](int rank) {
      Part part;
      part.words = words;
      if (rank == 1) part.early = "x is wrong";
      return part;
    };
    check_all_saw(seen_by_all(3, true, part_of), "ShapeError: x is wrong [rank 1 of 3] [layer 'layer']",
                  {512, 512, 512});
  }
}

TEST_CASE("a rank that fails during accumulation makes all throw its words", "[exchange]") {
  const auto part_of = [](Index words) {
    return [words](int rank) {
      Part part;
      part.words = words;
      if (rank == 0) part.late = "no memory";
      return part;
    };
  };
  const std::string thrown = "Error: no memory [rank 0 of 3] [layer 'layer']";
  check_all_saw(seen_by_all(3, true, part_of(2)), thrown, {512, 512, 512});
  check_all_saw(seen_by_all(3, true, part_of(in_two_frames)), thrown, {512, in_two_frames + 3, 512, 512});
}

TEST_CASE("without waiting for the header, failures are agreed on all the same", "[exchange]") {
  for (const bool early : {true, false}) {
    INFO((early ? "before" : "during") << " the exchange");
    const auto part_of = [&](int rank) {
      Part part;
      part.words = in_two_frames;
      if (rank == 1) (early ? part.early : part.late) = "wrong";
      return part;
    };
    check_all_saw(seen_by_all(2, false, part_of),
                  (early ? "ShapeError" : "Error") + std::string(": wrong [rank 1 of 2] [layer 'layer']"),
                  {512, in_two_frames + 3, 512, 512});
  }
}

TEST_CASE("of several failed ranks the lowest is heard", "[exchange]") {
  for (const int ranks : {2, 7, 64}) {
    INFO(ranks << " ranks");
    const std::vector<Seen> all = seen_by_all(ranks, true, [&](int rank) {
      Part part;
      if (rank > 0 && rank % 2 == 1) part.early = rank == 1 ? "one" : "another";
      if (rank == ranks - 1) part.late = "the last";
      return part;
    });
    const std::string thrown = "ShapeError: one [rank 1 of " + std::to_string(ranks) + "] [layer 'layer']";
    check_all_saw(all, thrown, {512, 512, 512});
  }
}

TEST_CASE("a failure comes before a disagreement", "[exchange]") {
  const std::vector<Seen> all = seen_by_all(3, true, [](int rank) {
    Part part;
    part.call.channels = rank == 0 ? 7 : 8;
    if (rank == 2) part.early = "wrong";
    return part;
  });
  check_all_saw(all, "ShapeError: wrong [rank 2 of 3] [layer 'layer']", {512, 512, 512});
}

TEST_CASE("all ranks name the layer of the one that failed", "[exchange]") {
  const std::string lengthy(3000, 'l');
  for (const std::string& name : {std::string("conv1.bn"), std::string(), lengthy}) {
    const auto thrown = on_thread_ranks(3, [&](ThreadCommunicator c) {
      Exchange<ThreadCommunicator> exchange(c);
      exchange.set_name(c.rank() == 1 ? name : "another");
      Part part;
      if (c.rank() == 1) part.early = "wrong";
      return thrown_by([&] { exchange_once(exchange, part); });
    });
    CHECK(thrown ==
          std::vector<std::string>(3, "ShapeError: wrong [rank 1 of 3] [layer '" + name.substr(0, 1400) + "']"));
  }
}

TEST_CASE("a message of any length and any bytes reaches every rank", "[exchange]") {
  const std::string lengthy(4000, '\xe9');
  const std::vector<Seen> all = seen_by_all(2, true, [&](int rank) {
    Part part;
    if (rank == 1) part.early = lengthy.c_str();
    return part;
  });
  check_all_saw(all,
                "ShapeError: " + lengthy.substr(0, RankFailure::longest_message) + " [rank 1 of 2] [layer 'layer']",
                {512, 512, 512});
}

TEST_CASE("ranks that call different things all throw, whatever the difference is", "[exchange]") {
  struct Difference {
    const char* text;
    void (*change)(ExchangeCall&);
  };
  const std::vector<Difference> differences{
      {"backward of layer", [](ExchangeCall& c) { c.operation = "backward"; }},
      {"64 channels", [](ExchangeCall& c) { c.channels = 64; }},
      {"2 dims", [](ExchangeCall& c) { c.dims = 2; }},
      {"Double", [](ExchangeCall& c) { c.kind = syncbn::ScalarKind::f64; }},
      {"eps 0.001", [](ExchangeCall& c) { c.eps = 0.001; }},
      {"momentum nan", [](ExchangeCall& c) { c.momentum = std::numeric_limits<double>::quiet_NaN(); }},
      {"flags 4", [](ExchangeCall& c) { c.flags = 4; }},
      {"num_batches_tracked 12", [](ExchangeCall& c) { c.batches = 12; }}};
  for (const Difference& difference : differences) {
    for (const int odd_one : {0, 2}) {
      INFO(difference.text << " on rank " << odd_one);
      const std::vector<Seen> all = seen_by_all(3, true, [&](int rank) {
        Part part;
        part.call.operation = "forward";
        if (rank == odd_one) difference.change(part.call);
        return part;
      });
      check_all_saw(all, all[0].thrown, {512, 512, 512, 512, 512});
      const std::string& thrown = all[0].thrown;
      CHECK(thrown.starts_with("Error: ranks disagree about what they are calling: "));
      const std::size_t comma = thrown.find("], but ");
      REQUIRE(comma != std::string::npos);
      const std::size_t found = thrown.find(difference.text);
      CHECK(found != std::string::npos);
      CHECK((found < comma) == (odd_one == 0));
      // Rank 0, and the lowest that differs from it.
      CHECK(thrown.find("[rank 0 of 3], but ") != std::string::npos);
      CHECK(thrown.find(odd_one == 0 ? "[rank 1 of 3]" : "[rank 2 of 3]", comma) != std::string::npos);
    }
  }
}

TEST_CASE("different sizes of payload never meet: the header is judged first", "[exchange]") {
  // One rank's payload fits into the first frame, the others' do not, and differ.
  const std::vector<Seen> all = seen_by_all(3, true, [](int rank) {
    Part part;
    part.words = rank == 0 ? 128 : rank == 1 ? 4096 : 600;
    part.call.channels = part.words / 2;
    return part;
  });
  check_all_saw(all, all[0].thrown, {512, 512, 512, 512, 512});
  CHECK(all[0].thrown.find("64 channels") != std::string::npos);
  CHECK(all[0].thrown.find("2048 channels") != std::string::npos);
}

TEST_CASE("a rank that is one exchange ahead is detected", "[exchange]") {
  const auto thrown = on_thread_ranks(3, [](ThreadCommunicator c) {
    Exchange<ThreadCommunicator> exchange(c);
    Exchange<ThreadCommunicator> other(c);
    exchange_once(exchange, {});
    // Rank 1 works with a copy of a state that is one behind: as after a step that it lost.
    Exchange<ThreadCommunicator> behind(exchange);
    exchange_once(exchange, {});
    Exchange<ThreadCommunicator>& used = c.rank() == 1 ? behind : exchange;
    return thrown_by([&] { exchange_once(used, {}); });
  });
  for (const std::string& text : thrown) {
    CHECK(text == thrown[0]);
    CHECK(text.find("exchange 2,") != std::string::npos);
    CHECK(text.find("exchange 1,") != std::string::npos);
    CHECK(text.find("[rank 1 of 3]") != std::string::npos);
  }
}

TEST_CASE("layers are told apart by the order in which they were made, or by name", "[exchange]") {
  const auto thrown = on_thread_ranks(2, [](ThreadCommunicator c) {
    Exchange<ThreadCommunicator> first(c);
    Exchange<ThreadCommunicator> second(c);
    std::vector<std::string> result{first.name(), second.name()};
    result.push_back(thrown_by([&] { exchange_once(c.rank() == 0 ? first : second, {}); }));
    first.set_name("same");
    second.set_name("same");
    result.push_back(thrown_by([&] { exchange_once(c.rank() == 0 ? first : second, {}); }));
    result.push_back(Exchange<ThreadCommunicator>(second).name());
    result.push_back(second.with(c).name());
    Exchange<ThreadCommunicator> third(c);  // numbered fourth: with() has made one
    result.push_back(third.name());
    result.push_back(third.with(c).name());
    result.push_back(Exchange<ThreadCommunicator>(c, "given").name());
    return result;
  });
  for (const auto& texts : thrown) {
    CHECK(texts[0] == "#0");
    CHECK(texts[1] == "#1");
    CHECK(texts[2].find("layer '#0'") != std::string::npos);
    CHECK(texts[2].find("layer '#1'") != std::string::npos);
    CHECK(texts[2] == thrown[0][2]);
    CHECK(texts[3] == "nothing");
    CHECK(texts[4] == "same");
    CHECK(texts[5] == "same");
    CHECK(texts[6] == "#3");
    CHECK(texts[7] == "#4");
    CHECK(texts[8] == "given");
  }
}

namespace {

// Of a layer whose tensors have 2^40 values per channel on rank 0: once that is known, each of the 80 channels is a block
// worth its frame, of two words and three around them.
constexpr Index blocks = 80;
Part large_part(int rank) {
  Part part;
  part.words = 2 * blocks;
  part.call.channels = blocks;
  part.call.kind = syncbn::ScalarKind::f32;
  part.first = 100 * rank;
  part.count = rank == 0 ? 0x1p40 : 0;
  part.by_blocks = rank == 0;
  return part;
}

std::vector<Index> frames_of_blocks(std::vector<Index> rest = {}) {
  std::vector<Index> frames(1 + static_cast<std::size_t>(blocks), 5);
  frames[0] = 512;
  frames.insert(frames.end(), rest.begin(), rest.end());
  return frames;
}

}  // namespace

TEST_CASE("large tensors are exchanged in blocks from the second time on", "[exchange][blocks]") {
  for (const int ranks : {1, 3}) {
    for (const bool waits : {true, false}) {
      INFO(ranks << " ranks" << (waits ? "" : ", without waiting for the header"));
      const auto ok = on_thread_ranks(ranks, [&](ThreadCommunicator c) {
        Recording recording(c);
        Exchange<Recording> exchange(recording);
        exchange.set_waits_for_header(waits);
        const std::vector<double> expected = expected_sums(2 * blocks, 50 * ranks * (ranks - 1), ranks);
        const auto frames_of = [&](const Part& part) {
          recording.record().clear();
          if (exchange_once(exchange, part) != expected || exchange.total_count() != 0x1p40)
            return std::vector<Index>();
          return recording.record().started;
        };
        Part part = large_part(c.rank());
        bool right = frames_of(part) == std::vector<Index>{512};
        right = right && frames_of(part) == frames_of_blocks() && recording.record().acquired.empty();
        right = right && frames_of(part) == frames_of_blocks() && recording.record().acquired.empty();
        // A smaller batch changes nothing, nor one that nobody gains from: what the largest one needed is there.
        Part small;
        small.by_blocks = c.rank() == 0;
        exchange_once(exchange, small);
        right = right && exchange.total_count() == 3 * ranks;
        part.by_blocks = false;
        right = right && frames_of(part) == frames_of_blocks() && frames_of(part) == frames_of_blocks();
        part.rounds_more = 2;
        return right && frames_of(part) == frames_of_blocks(std::vector<Index>(2 * blocks, 5));
      });
      CHECK(ok == std::vector<bool>(static_cast<std::size_t>(ranks), true));
    }
  }
}

TEST_CASE("where no rank gains from blocks, or they are not wanted, there is one frame", "[exchange][blocks]") {
  for (const bool wanted : {false, true}) {
    const auto frames = on_thread_ranks(2, [&](ThreadCommunicator c) {
      Recording recording(c);
      Exchange<Recording> exchange(recording);
      if (!wanted) exchange.set_most_blocks(1);
      Part part = large_part(c.rank());
      part.by_blocks = !wanted;
      exchange_once(exchange, part);
      exchange_once(exchange, part);
      return recording.record().started;
    });
    CHECK(frames == std::vector<std::vector<Index>>(2, {512, 512}));
  }
}

TEST_CASE("the plan follows from what all ranks share", "[exchange][blocks]") {
  using syncbn::detail::plan_of;
  constexpr double block = syncbn::detail::bytes_of_a_block;
  CHECK(plan_of(0, 1e12).blocks() == 1);
  CHECK(plan_of(2, 1e12).blocks() == 1);
  CHECK(plan_of(200, 0).blocks() == 1);
  CHECK(plan_of(200, 15.99 * block).blocks() == 1);
  CHECK(plan_of(200, 16 * block).blocks() == 13);  // 100 channels: of 8, the last of 4
  CHECK(plan_of(60, 10 * block).blocks() == 1);
  CHECK(plan_of(60, 20 * block).blocks() == 15);  // 30 channels: of 2
  CHECK(plan_of(200, 1e12, 64).blocks() == 50);   // of 2 channels
  CHECK(plan_of(512, 1e12).blocks() == 256);      // of one
  CHECK(plan_of(514, 1e12).blocks() == 129);      // 257 channels: of 2, the last of one
  CHECK(plan_of(4096, 1e300).blocks() == 256);    // of 8
  for (const Index channels : {1, 2, 63, 64, 65, 255, 256, 257, 1000, 4099}) {
    for (double bytes = 0; bytes < 600 * block; bytes += 1.7 * block) {
      const auto plan = plan_of(2 * channels, bytes);
      Index words = 0;
      for (Index k = 0; k < plan.blocks(); ++k) {
        CHECK(plan.first_word(k) == words);
        CHECK(plan.words_of(k) > 0);
        CHECK(plan.words_of(k) % 2 == 0);
        words += plan.words_of(k);
      }
      CHECK(words == 2 * channels);
      CHECK(plan.blocks() <= 256);
      CHECK(static_cast<double>(plan.blocks() - 1) <= bytes / block);
    }
  }
}

TEST_CASE("a rank that fails at any block makes all throw its words, and all frames come home", "[exchange][blocks]") {
  for (const bool waits : {true, false}) {
    for (const Index at : {Index{-1}, Index{0}, Index{1}, Index{17}, blocks - 1}) {
      INFO("block " << at << (waits ? "" : ", without waiting for the header"));
      const auto ok = on_thread_ranks(3, [&](ThreadCommunicator c) {
        Recording recording(c);
        Exchange<Recording> exchange(recording, "layer");
        exchange.set_waits_for_header(waits);
        exchange_once(exchange, large_part(c.rank()));
        Part part = large_part(c.rank());
        if (c.rank() == 1) (at < 0 ? part.early : part.late) = "wrong";
        part.late_block = at;
        recording.record().clear();
        const std::string thrown = thrown_by([&] { exchange_once(exchange, part); });
        const std::vector<Index> frames = recording.record().started;
        const bool judged_early = waits && at < 0;
        return thrown == (at < 0 ? "ShapeError" : "Error") + std::string(": wrong [rank 1 of 3] [layer 'layer']") &&
               frames == (judged_early ? std::vector<Index>{512, 512, 512} : frames_of_blocks({512, 512})) &&
               exchange.sequence() == 1 && exchange_once(exchange, large_part(c.rank()))[0] == 300;
      });
      CHECK(ok == std::vector<bool>(3, true));
    }
  }
}

TEST_CASE("ranks that disagree while blocks are under way bring them home first", "[exchange][blocks]") {
  const auto thrown = on_thread_ranks(2, [](ThreadCommunicator c) {
    Exchange<ThreadCommunicator> exchange(c, "layer");
    exchange.set_waits_for_header(false);
    exchange_once(exchange, large_part(c.rank()));
    Part part = large_part(c.rank());
    part.call.eps = c.rank();
    std::string text = thrown_by([&] { exchange_once(exchange, part); });
    return exchange_once(exchange, large_part(c.rank()))[0] == 100 ? text : "wrong sums afterwards";
  });
  CHECK(thrown[0].starts_with("Error: ranks disagree about what they are calling: "));
  CHECK(thrown[1] == thrown[0]);
}

TEST_CASE("blocks are polled one after the other", "[exchange][blocks]") {
  const auto group = ThreadCommunicator::create(2);
  Exchange<ThreadCommunicator> a(group[0]);
  Exchange<ThreadCommunicator> b(group[1]);
  RankFailure failure;
  syncbn::HostQueue queue;
  const auto pack = [](double* words) { words[0] = words[1] = 1; };
  for (auto* exchange : {&a, &b}) exchange->reserve(2 * blocks);
  for (auto* exchange : {&a, &b}) exchange->begin(large_part(0).call, 2 * blocks, 0x1p40, failure, queue, true);
  for (auto* exchange : {&a, &b}) exchange->start([&](double* words) { std::fill_n(words, 2 * blocks, 1); });
  for (auto* exchange : {&a, &b}) exchange->finish();
  a.reserve(2 * blocks);
  a.begin(large_part(0).call, 2 * blocks, 1, failure, queue);
  CHECK(a.blocks() == blocks);
  CHECK_FALSE(a.poll_start());  // the header is not back
  b.reserve(2 * blocks);
  b.begin(large_part(0).call, 2 * blocks, 1, failure, queue);
  CHECK(a.poll_start());
  for (int k = 0; k < 64; ++k) a.start(pack);
  CHECK_FALSE(a.poll_start());  // 64 are under way
  CHECK_FALSE(a.poll());
  b.start(pack);
  CHECK(a.poll());
  CHECK(a.poll_start());
  CHECK(a.finish()[0] == 2);
  CHECK_FALSE(a.poll());
  CHECK(a.started() == 64);
  CHECK(a.finished() == 1);
  CHECK(b.finish()[1] == 2);
}

TEST_CASE("NaN and infinities in the payload reach no word of the header", "[exchange]") {
  for (const double poison : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    for (const Index words : {in_one_frame, in_two_frames}) {
      INFO(poison << " in " << words << " words");
      const auto ok = on_thread_ranks(3, [&](ThreadCommunicator c) {
        Exchange<ThreadCommunicator> exchange(c);
        Part part;
        part.words = words;
        if (c.rank() == 1) part.first = poison;
        bool all_poisoned = true;
        for (const double sum : exchange_once(exchange, part)) all_poisoned = all_poisoned && !std::isfinite(sum);
        for (const double sum : exchange_once(exchange, {})) all_poisoned = all_poisoned && sum == 3;
        return all_poisoned && exchange.total_count() == 9;
      });
      CHECK(ok == std::vector<bool>{true, true, true});
    }
  }
}

TEST_CASE("poll tells whether finish would wait, at any time", "[exchange]") {
  for (const Index words : {Index{2}, in_two_frames}) {
    INFO(words << " words");
    const auto group = ThreadCommunicator::create(2);
    Exchange<ThreadCommunicator> a(group[0]);
    Exchange<ThreadCommunicator> b(group[1]);
    a.set_waits_for_header(false);
    b.set_waits_for_header(false);
    RankFailure failure;
    syncbn::HostQueue queue;
    const auto pack = [&](double* to) { to[0] = 1; };
    const auto begin = [&](auto& exchange) {
      exchange.reserve(words);
      exchange.begin({}, words, 0, failure, queue);
    };
    begin(a);
    a.start(pack);
    CHECK_FALSE(a.poll());
    CHECK_FALSE(a.poll());
    begin(b);
    CHECK_FALSE(a.poll());
    b.start(pack);
    CHECK(a.poll());
    CHECK(b.poll());
    CHECK(a.finish()[0] == 2);
    CHECK(b.finish()[0] == 2);
    CHECK(a.poll());
  }
}

TEST_CASE("between begin and start, poll makes progress for the header that travels", "[exchange]") {
  const auto group = ThreadCommunicator::create(2);
  Exchange<ThreadCommunicator> a(group[0]);
  RankFailure failure;
  syncbn::HostQueue queue;
  a.reserve(in_two_frames);
  a.begin({}, in_two_frames, 0, failure, queue);
  CHECK_FALSE(a.poll());
}

TEST_CASE("a copied exchange counts on by itself; one in another group counts from 0", "[exchange]") {
  const auto ok = on_thread_ranks(2, [](ThreadCommunicator c) {
    Exchange<ThreadCommunicator> exchange(c, "name");
    exchange.set_waits_for_header(false);
    Part part;
    part.words = in_two_frames;
    exchange_once(exchange, part);
    Exchange<ThreadCommunicator> copy(exchange);
    exchange_once(copy, part);
    exchange_once(copy, part);
    bool result = exchange.sequence() == 1 && copy.sequence() == 3;
    exchange = copy;
    result = result && exchange.sequence() == 3 && exchange_once(exchange, part)[0] == 2;
    Exchange<ThreadCommunicator> moved(std::move(exchange));
    result = result && moved.sequence() == 4 && exchange_once(moved, part)[0] == 2;
    Exchange<ThreadCommunicator> elsewhere = moved.with(c.split(0, 0));
    return result && elsewhere.sequence() == 0 && elsewhere.name() == "name" && exchange_once(elsewhere, part)[0] == 2;
  });
  CHECK(ok == std::vector<bool>{true, true});
}

TEST_CASE("frames of something else that meet a header are told from it", "[exchange]") {
  const auto thrown = on_thread_ranks(2, [](ThreadCommunicator c) {
    return thrown_by([&] {
      if (c.rank() == 0) {
        Exchange<ThreadCommunicator> exchange(c);
        exchange_once(exchange, {});
      } else {
        std::vector<double> gradients(512, 0.5);
        syncbn::all_reduce_sum(c, gradients);
      }
    });
  });
  CHECK(thrown[0] ==
        "CommunicatorError: call of layer '#0', exchange 0, rank 0 of 2: frames of different exchanges met in one sum");
}

TEST_CASE("a fault of the fabric says which call it met", "[exchange]") {
  using syncbn_test::Fault;
  using Failing = syncbn_test::FailingCommunicator<ThreadCommunicator>;
  for (const Fault::Kind kind : {Fault::Kind::throws_at_start, Fault::Kind::throws_at_finish}) {
    const auto group = ThreadCommunicator::create(1);
    Exchange<Failing> exchange(Failing(group[0], {kind, 2, {}, {}}), "layer");
    Part part;
    part.call.operation = "forward";
    CHECK(thrown_by([&] { exchange_once(exchange, part); }) == "nothing");
    CHECK(thrown_by([&] { exchange_once(exchange, part); }) ==
          std::string("CommunicatorError: forward of layer 'layer', exchange 1, rank 0 of 1: ") +
              (kind == Fault::Kind::throws_at_start ? "start" : "finish") + " failed on cue");
    CHECK(thrown_by([&] { exchange_once(exchange, part); }) == "nothing");
    CHECK(exchange.sequence() == 2);
  }
}

TEST_CASE("frames that a fault has left under way are not written to again", "[exchange]") {
  using syncbn_test::Fault;
  using Failing = syncbn_test::FailingCommunicator<ThreadCommunicator>;
  const auto group = ThreadCommunicator::create(2);
  Exchange<Failing> early(Failing(group[0], {Fault::Kind::throws_at_finish, 1, {}, {}}), "layer");
  Exchange<ThreadCommunicator> late(group[1], "layer");
  CHECK(thrown_by([&] { exchange_once(early, {}); }).find("finish failed on cue") != std::string::npos);
  // The rank tries again with another batch, before the other has come.
  RankFailure failure;
  syncbn::HostQueue queue;
  early.reserve(1);
  early.begin({}, 1, 3, failure, queue);
  early.start([](double* word) { word[0] = 100; });
  CHECK(exchange_once(late, {}) == std::vector<double>{2});
}

TEST_CASE("an exchange that is never finished is given up by the next", "[exchange]") {
  Exchange<ThreadCommunicator> exchange(ThreadCommunicator::create(1).front(), "layer");
  RankFailure failure;
  syncbn::HostQueue queue;
  const auto begin = [&] { exchange.begin({}, 1, 3, failure, queue); };
  begin();
  begin();  // nothing was sent
  exchange.start([](double*) {});
  CHECK(thrown_by(begin) ==
        "Error: call of layer 'layer', exchange 0, rank 0 of 1: the exchange before was never finished");
  CHECK(exchange_once(exchange, {}) == std::vector<double>{1});
  CHECK(exchange_once(exchange, {}) == std::vector<double>{1});
}

TEST_CASE("a second round needs no reservation", "[exchange]") {
  Exchange<ThreadCommunicator> exchange(ThreadCommunicator::create(1).front());
  RankFailure failure;
  syncbn::HostQueue queue;
  exchange.begin({}, 1, 3, failure, queue);
  exchange.start([](double* word) { word[0] = 1; });
  CHECK(exchange.finish()[0] == 1);
  CHECK(exchange.again([](double* word) { word[0] = 7; })[0] == 7);
}

TEST_CASE("ranks that come at very different times agree all the same", "[exchange]") {
  using syncbn_test::Fault;
  using Failing = syncbn_test::FailingCommunicator<ThreadCommunicator>;
  const auto sums = on_thread_ranks(3, [](ThreadCommunicator c) {
    Fault slow;
    slow.delay = std::chrono::microseconds(c.rank() == 1 ? 3000 : 0);
    Exchange<Failing> exchange(Failing(c, slow));
    std::vector<double> result;
    for (int step = 0; step < 5; ++step) {
      Part part;
      part.words = step % 2 == 0 ? 2 : in_two_frames;
      part.first = c.rank() + step;
      if (step == 3 && c.rank() == 1) part.late = "wrong";
      const std::string thrown = thrown_by([&] { result.push_back(exchange_once(exchange, part)[0]); });
      result.push_back(thrown == "nothing" ? 0 : 1);
    }
    return result;
  });
  for (const auto& s : sums) CHECK(s == std::vector<double>{3, 0, 6, 0, 9, 0, 1, 15, 0});
}

TEST_CASE("a group may have 24800 ranks and no more", "[exchange]") {
  using syncbn_test::EchoCommunicator;
  Exchange<EchoCommunicator> largest{EchoCommunicator(24800)};
  CHECK(exchange_once(largest, {}) == std::vector<double>{24800});
  CHECK(largest.total_count() == 3 * 24800);
  CHECK(thrown_by([] { Exchange<EchoCommunicator> too_large{EchoCommunicator(24801)}; }) ==
        "Error: groups of more than 24800 ranks are not possible");
}
