/// @file
/// What a communicator promises beyond what its concept can say: one function for each law. communicator_laws.cpp runs
/// them on the plug under test; a program with a Catch2 main of its own may call them on any type.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include <syncbn/all_reduce.hpp>
#include <syncbn/check.hpp>

#include "conformance/outcomes.hpp"

namespace syncbn_test {

/// @brief Less than a header, a header, and more than one page: every size that a fabric may treat in its own way.
inline constexpr std::array<syncbn::Index, 4> frame_sizes{1, 3, 512, 4099};

namespace detail {

inline std::uint64_t seed_of(int rank, std::uint64_t round) { return 1000 * round + static_cast<std::uint64_t>(rank); }

// Exponents from -40 to 40, so that any change of the order of summation shows in the last bits.
inline double scattered(std::uint64_t seed, std::uint64_t i) {
  return std::ldexp(noise(seed, i), static_cast<int>(40 * noise(seed + 77, i)));
}

template <class Communicator>
struct Sum {
  typename Communicator::frame frame;
  typename Communicator::queue_type queue{};

  template <class Word>
  Sum(Communicator& c, syncbn::Index words, const Word& word) : frame(c.acquire(words)) {
    std::vector<double> values;
    for (syncbn::Index i = 0; i < words; ++i) values.push_back(word(static_cast<std::uint64_t>(i)));
    FrameAccess<Communicator>::write(c, frame, queue, values);
    c.start(frame, queue);
  }
  void finish_into(Communicator& c, std::vector<double>& out) {
    c.finish(frame, queue);
    const std::vector<double> sums = FrameAccess<Communicator>::read(c, frame, queue);
    out.insert(out.end(), sums.begin(), sums.end());
  }
};

template <class Communicator, class Word>
std::vector<double> sum_of(Communicator& c, syncbn::Index words, const Word& word) {
  std::vector<double> result;
  Sum<Communicator>(c, words, word).finish_into(c, result);
  return result;
}

// Whether the group still adds up: an integer for each rank.
template <class Communicator>
bool adds_up(Communicator& c) {
  const double expected = c.size() * (c.size() + 1) / 2.0;
  const std::vector<double> sums = sum_of(c, 3, [&](std::uint64_t) { return c.rank() + 1.0; });
  return std::all_of(sums.begin(), sums.end(), [&](double sum) { return sum == expected; });
}

}  // namespace detail

/// @brief rank() and size() are those that the ranks were started with; the group is usable.
template <class Communicator>
void law_group() {
  static_assert(syncbn::check_communicator<Communicator>());
  const int ranks = ranks_under_test<Communicator>();
  const Outcomes outcomes = run_ranks_well<Communicator>([](Communicator& c) {
    return std::vector<double>{static_cast<double>(c.rank()), static_cast<double>(c.size()), c.usable() ? 1.0 : 0.0};
  });
  for (int r = 0; r < ranks; ++r) {
    CHECK(outcomes[static_cast<std::size_t>(r)].values == std::vector<double>{double(r), double(ranks), 1});
  }
}

/// @brief A frame has the size that was asked for; one without words has size 0, whether moved from or not.
template <class Communicator>
void law_frame_sizes() {
  const Outcomes outcomes = run_ranks_well<Communicator>([](Communicator& c) {
    std::vector<double> sizes;
    typename Communicator::frame empty;
    sizes.push_back(static_cast<double>(empty.size()));
    for (const syncbn::Index words : frame_sizes) {
      auto frame = c.acquire(words);
      auto moved = std::move(frame);
      empty = std::move(moved);
      sizes.push_back(static_cast<double>(empty.size()));
    }
    return sizes;
  });
  for (const Outcome& outcome : outcomes) CHECK(outcome.values == std::vector<double>{0, 1, 3, 512, 4099});
}

/// @brief Integers add up exactly, word by word, in frames of any size.
template <class Communicator>
void law_integers() {
  const Outcomes outcomes = run_ranks_well<Communicator>([](Communicator& c) {
    std::vector<double> sums;
    for (const syncbn::Index words : frame_sizes) {
      detail::Sum<Communicator>(c, words, [&](std::uint64_t i) {
        return (c.rank() + 1.0) * static_cast<double>(i + 1);
      }).finish_into(c, sums);
    }
    return sums;
  });
  const double ranks = static_cast<double>(outcomes.size());
  std::vector<double> expected;
  for (const syncbn::Index words : frame_sizes) {
    for (syncbn::Index i = 0; i < words; ++i) expected.push_back(ranks * (ranks + 1) / 2 * static_cast<double>(i + 1));
  }
  for (const Outcome& outcome : outcomes) CHECK(outcome.values == expected);
}

/// @brief Sums are those of the numbers up to rounding, have the same bits on every rank, and again the second time.
template <class Communicator>
void law_doubles() {
  const auto word = [](int rank) {
    return [rank](std::uint64_t i) { return detail::scattered(detail::seed_of(rank, 1), i); };
  };
  const Outcomes outcomes = run_ranks_well<Communicator>([&](Communicator& c) {
    std::vector<double> sums;
    for (int repetition = 0; repetition < 2; ++repetition) {
      for (const syncbn::Index words : frame_sizes) {
        detail::Sum<Communicator>(c, words, word(c.rank())).finish_into(c, sums);
      }
    }
    return sums;
  });
  check_same_bits_on_all_ranks(outcomes);
  const std::vector<double>& sums = outcomes[0].values;
  const auto half = sums.begin() + static_cast<std::ptrdiff_t>(sums.size() / 2);
  CHECK(same_bits({sums.begin(), half}, {half, sums.end()}));

  // P - 1 additions in any order: each rounds, by 2^-53 of at most the sum of magnitudes.
  std::size_t at = 0;
  double worst = 0;
  for (const syncbn::Index words : frame_sizes) {
    for (syncbn::Index i = 0; i < words; ++i, ++at) {
      long double exact = 0;
      long double magnitudes = 0;
      for (int r = 0; r < static_cast<int>(outcomes.size()); ++r) {
        const double value = word(r)(static_cast<std::uint64_t>(i));
        exact += value;
        magnitudes += std::abs(value);
      }
      const long double bound = 0x1p-52L * magnitudes * static_cast<long double>(outcomes.size() - 1);
      const long double error = std::abs(exact - sums[at]);
      if (error > bound) worst = std::max(worst, static_cast<double>(error / (bound + 0x1p-1000L)));
    }
  }
  CHECK(worst == 0);
}

/// @brief NaN and infinities reach the words they were put into and no others.
template <class Communicator>
void law_words_are_apart() {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double inf = std::numeric_limits<double>::infinity();
  const Outcomes outcomes = run_ranks_well<Communicator>([&](Communicator& c) {
    return detail::sum_of(c, 512, [&](std::uint64_t i) -> double {
      if (i % 4 == 1) return c.rank() == 0 ? nan : 1;
      if (i % 4 == 3) return c.rank() == c.size() - 1 ? inf : 1;
      return c.rank() + 1;
    });
  });
  const double ranks = static_cast<double>(outcomes.size());
  for (const Outcome& outcome : outcomes) {
    bool apart = true;
    for (std::size_t i = 0; i < outcome.values.size(); ++i) {
      const double sum = outcome.values[i];
      apart = apart && (i % 4 == 1 ? std::isnan(sum) : i % 4 == 3 ? sum == inf : sum == ranks * (ranks + 1) / 2);
    }
    CHECK(apart);
  }
}

/// @brief As many frames as a layer may have in flight together, of several sizes, are finished in any order, on each rank in
/// another.
template <class Communicator>
void law_frames_in_flight() {
  constexpr std::size_t flying = 65;
  constexpr std::uint64_t rounds = 4;
  const Outcomes outcomes = run_ranks_well<Communicator>([](Communicator& c) {
    std::vector<double> sums;
    for (std::uint64_t round = 0; round < rounds; ++round) {
      std::vector<detail::Sum<Communicator>> flight;
      flight.reserve(flying);
      for (std::size_t k = 0; k < flying; ++k) {
        flight.emplace_back(c, frame_sizes[k % frame_sizes.size()],
                            [&](std::uint64_t i) { return (c.rank() + 1.0) * static_cast<double>(round + k + i); });
      }
      std::array<std::vector<double>, flying> results;
      for (std::size_t k = 0; k < flying; ++k) {
        const std::size_t which = (k * 3 + static_cast<std::size_t>(c.rank()) + round) % flying;
        flight[which].finish_into(c, results[which]);
      }
      for (const auto& result : results) {
        sums.push_back(result.front());
        sums.push_back(result.back());
      }
    }
    return sums;
  });
  const double ranks = static_cast<double>(outcomes.size());
  std::vector<double> expected;
  for (std::uint64_t round = 0; round < rounds; ++round) {
    for (std::size_t k = 0; k < flying; ++k) {
      const double last = static_cast<double>(frame_sizes[k % frame_sizes.size()] - 1);
      const double first = static_cast<double>(round + k);
      expected.push_back(ranks * (ranks + 1) / 2 * first);
      expected.push_back(ranks * (ranks + 1) / 2 * (first + last));
    }
  }
  for (const Outcome& outcome : outcomes) CHECK(outcome.values == expected);
}

/// @brief poll() returns at once, false as long as a rank is missing, and true in the end; finish() then gives the sums.
template <class Communicator>
void law_poll() {
  const Outcomes outcomes = run_ranks_well<Communicator>([](Communicator& c, const Barrier& wait_for_all) {
    const bool last = c.rank() == c.size() - 1;
    typename Communicator::queue_type queue{};
    auto frame = c.acquire(512);
    FrameAccess<Communicator>::write(c, frame, queue, std::vector<double>(512, c.rank() + 1));
    double too_early = 0;
    if (!last) {
      c.start(frame, queue);
      for (int i = 0; i < 100; ++i) too_early += c.poll(frame) ? 1 : 0;
    }
    wait_for_all();  // a poll() that waited for the last rank would not have come here
    if (last) c.start(frame, queue);
    const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    bool done = false;
    while (!done && std::chrono::steady_clock::now() < patience) {
      done = c.poll(frame);
      std::this_thread::yield();
    }
    const bool stays = c.poll(frame);
    c.finish(frame, queue);
    const std::vector<double> sums = FrameAccess<Communicator>::read(c, frame, queue);
    return std::vector<double>{too_early, done ? 1.0 : 0.0, stays ? 1.0 : 0.0, sums[0], sums[511]};
  });
  const double sum = static_cast<double>(outcomes.size() * (outcomes.size() + 1)) / 2;
  for (const Outcome& outcome : outcomes) CHECK(outcome.values == std::vector<double>{0, 1, 1, sum, sum});
}

/// @brief A frame that is destroyed in flight does no harm: not to its sum on other ranks, not to frames acquired later.
template <class Communicator>
void law_abandoned_frames() {
  const Outcomes outcomes = run_ranks_well<Communicator>([](Communicator& c) {
    double wrong = 0;
    for (int round = 0; round < 50; ++round) {
      const auto word = [&](std::uint64_t i) { return (c.rank() + 1.0) * static_cast<double>(i + 1); };
      auto lost = std::make_unique<detail::Sum<Communicator>>(c, 3, word);
      if (round % c.size() == c.rank()) {
        lost.reset();
      } else {
        std::vector<double> sums;
        lost->finish_into(c, sums);
        for (std::size_t i = 0; i < 3; ++i) {
          wrong += sums[i] == static_cast<double>(i + 1) * c.size() * (c.size() + 1) / 2 ? 0 : 1;
        }
      }
      // Not started yet: what still arrives for the lost frame must not be written here.
      auto fresh = c.acquire(3);
      typename Communicator::queue_type queue{};
      FrameAccess<Communicator>::write(c, fresh, queue, std::vector<double>(3, -7));
      if (!detail::adds_up(c)) ++wrong;
      for (const double value : FrameAccess<Communicator>::read(c, fresh, queue)) wrong += value == -7 ? 0 : 1;
    }
    return std::vector<double>{wrong};
  });
  for (const Outcome& outcome : outcomes) CHECK(outcome.values == std::vector<double>{0});
}

/// @brief Copies are handles to the same rank of the same group: frames started through either belong to one order, and
/// outlive the copy that gave them.
template <class Communicator>
void law_copies() {
  const Outcomes outcomes = run_ranks_well<Communicator>([](Communicator& c) {
    Communicator copy = c;
    const bool same = copy.rank() == c.rank() && copy.size() == c.size() && copy.usable();
    std::vector<double> sums;
    for (int round = 0; round < 10; ++round) {
      // On each rank through another handle: the k-th frame of one is the k-th of all.
      Communicator& first = (round + c.rank()) % 2 == 0 ? c : copy;
      Communicator& second = (round + c.rank()) % 2 == 0 ? copy : c;
      detail::Sum<Communicator> a(first, 3, [&](std::uint64_t) { return 1.0; });
      detail::Sum<Communicator> b(second, 3, [&](std::uint64_t) { return 100.0; });
      b.finish_into(first, sums);
      a.finish_into(second, sums);
    }
    typename Communicator::frame frame;
    typename Communicator::queue_type queue{};
    {
      Communicator brief = c;
      frame = brief.acquire(1);
      FrameAccess<Communicator>::write(brief, frame, queue, {5});
      brief.start(frame, queue);
    }
    c.finish(frame, queue);
    sums.push_back(FrameAccess<Communicator>::read(c, frame, queue)[0]);
    sums.push_back(same ? 1 : 0);
    return sums;
  });
  const double ranks = static_cast<double>(outcomes.size());
  std::vector<double> expected;
  for (int round = 0; round < 10; ++round) {
    expected.insert(expected.end(), 3, 100 * ranks);
    expected.insert(expected.end(), 3, ranks);
  }
  expected.push_back(5 * ranks);
  expected.push_back(1);
  for (const Outcome& outcome : outcomes) CHECK(outcome.values == expected);
}

/// @brief split(): ranks of one color form a group, in the order of their keys, and of old ranks where keys are equal.
/// The old group goes on; both may be in use together.
template <class Communicator>
  requires syncbn::splittable<Communicator>
void law_split() {
  const Outcomes outcomes = run_ranks_well<Communicator>([](Communicator& c) {
    Communicator halves = c.split(c.rank() % 2, -c.rank());
    Communicator same = c.split(7, 3);
    Communicator alone = halves.split(halves.rank(), 0);
    detail::Sum<Communicator> under_way(c, 3, [](std::uint64_t) { return 1.0; });
    const std::vector<double> in_half = detail::sum_of(halves, 3, [&](std::uint64_t) { return c.rank() + 1.0; });
    std::vector<double> result{
        double(halves.rank()), double(halves.size()), in_half[0],           in_half[2],
        double(same.rank()),   double(same.size()),   double(alone.rank()), double(alone.size())};
    under_way.finish_into(c, result);
    result.push_back(detail::adds_up(same) ? 1 : 0);
    result.push_back(detail::adds_up(alone) ? 1 : 0);
    return result;
  });
  const int ranks = static_cast<int>(outcomes.size());
  for (int r = 0; r < ranks; ++r) {
    double size = 0;
    double above = 0;
    double sum = 0;
    for (int other = r % 2; other < ranks; other += 2) {
      ++size;
      above += other > r ? 1 : 0;
      sum += other + 1;
    }
    const double all = ranks;
    INFO("rank " << r);
    CHECK(outcomes[static_cast<std::size_t>(r)].values ==
          std::vector<double>{above, size, sum, sum, double(r), all, 0, 1, all, all, all, 1, 1});
  }
}

/// @brief Numbers of layers are 0, 1, ... on each rank, whichever handle is asked.
template <class Communicator>
void law_ordinals() {
  const Outcomes outcomes = run_ranks_well<Communicator>([](Communicator& c) {
    Communicator copy = c;
    std::vector<double> numbers;
    for (Communicator* handle : {&c, &copy, &copy, &c}) numbers.push_back(static_cast<double>(handle->next_ordinal()));
    return numbers;
  });
  for (const Outcome& outcome : outcomes) CHECK(outcome.values == std::vector<double>{0, 1, 2, 3});
}

/// @brief Whoever waits longer than the deadline for a rank that does not come gets a CommunicatorError; the group is then not
/// usable, and says so to every later sum.
template <class Communicator>
void law_deadline() {
  const auto throws = [](const auto& f) {
    try {
      f();
    } catch (const syncbn::CommunicatorError&) {
      return 1.0;
    }
    return 0.0;
  };
  const Outcomes outcomes = run_ranks_well<Communicator>([&](Communicator& c, const Barrier& barrier) {
    const auto one = [](std::uint64_t) { return 1.0; };
    c.set_timeout(std::chrono::milliseconds(200));
    std::vector<double> result(3, 1.0);
    if (c.rank() != 0) {
      result[0] = throws([&] { static_cast<void>(detail::sum_of(c, 3, one)); });
      result[1] = c.usable() ? 0 : 1;
      result[2] = throws([&] { detail::Sum<Communicator>(c, 3, one); });
    }
    barrier();  // the first rank has not come so far
    return result;
  });
  for (const Outcome& outcome : outcomes) CHECK(outcome.values == std::vector<double>(3, 1.0));
}

/// @brief all_reduce_sum() over it. (The library's own function; here because whoever writes a communicator calls it.)
template <class Communicator>
  requires std::same_as<typename Communicator::memory_space, syncbn::HostSpace>
void law_all_reduce_sum() {
  const Outcomes outcomes = run_ranks_well<Communicator>([](Communicator& c) {
    std::vector<double> values(257);
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = detail::scattered(detail::seed_of(c.rank(), 2), static_cast<std::uint64_t>(i));
    }
    syncbn::all_reduce_sum(c, values);
    return values;
  });
  check_same_bits_on_all_ranks(outcomes);
  CHECK(outcomes[0].values.size() == 257);
}

}  // namespace syncbn_test
