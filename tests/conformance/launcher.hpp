/// @file
/// How the ranks of a communicator under test are run. Nothing to do for a communicator with
/// `static std::vector<C> create(int ranks)`, whose ranks are threads of one process, for one that mpiexec starts and that
/// is constructible from an MPI_Comm (LAUNCHER mpi), and for one of which the size is always 1. For any other, specialise
/// Launcher in a header that HEADER names:
///
///     template <>
///     struct syncbn_test::Launcher<acme::Mine> {
///       static Outcomes run(int ranks, const RankBody<acme::Mine>& body) {
///         return run_on_threads(acme::Mine::all_ranks_of_a_new_group(ranks), body);
///       }
///     };
///
/// Where the host cannot reach the words of a frame through its pointer, specialise FrameAccess, too.
///
/// Where each rank is a process, every process runs the suite; run_in_this_process() needs a barrier and an all-gather
/// that do not stand on the communicator under test.
#pragma once

#include <algorithm>
#include <barrier>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdlib>
#include <exception>
#include <functional>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <syncbn/concepts.hpp>

namespace syncbn_test {

/// @brief What a rank came to: numbers to be judged, and the text of the exception that it threw, if it did.
struct Outcome {
  std::vector<double> values;
  std::string error;
};
/// @brief Of all ranks, in order; the same in every process.
using Outcomes = std::vector<Outcome>;

/// @brief Returns when all ranks have called it; independent of the communicator under test.
using Barrier = std::function<void()>;

/// @brief What each rank does. It makes no assertions: Catch2's are for the main thread.
template <class Communicator>
using RankBody = std::function<std::vector<double>(Communicator&, const Barrier&)>;

/// @brief Runs the body on one rank and keeps what it throws.
template <class Communicator>
Outcome run_rank(Communicator& communicator, const Barrier& barrier, const RankBody<Communicator>& body) {
  // A broken law shall end in a message, long before the time limit of the test.
  if constexpr (requires { communicator.set_timeout(std::chrono::seconds(60)); }) {
    communicator.set_timeout(std::chrono::seconds(60));
  }
  Outcome outcome;
  try {
    outcome.values = body(communicator, barrier);
  } catch (const std::exception& e) {
    outcome.error = e.what();
  } catch (...) {
    outcome.error = "an exception of unknown type";
  }
  return outcome;
}

/// @brief One thread for each rank.
/// @param ranks  all ranks of a new group, in order.
template <class Communicator>
Outcomes run_on_threads(std::vector<Communicator> ranks, const RankBody<Communicator>& body) {
  Outcomes outcomes(ranks.size());
  std::barrier gate(static_cast<std::ptrdiff_t>(ranks.size()));
  std::vector<std::thread> threads;
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    threads.emplace_back(
        [&, r] { outcomes[r] = run_rank<Communicator>(ranks[r], [&] { gate.arrive_and_wait(); }, body); });
  }
  for (std::thread& thread : threads) thread.join();
  return outcomes;
}

/// @brief This process is one rank of several.
/// @param mine     its communicator. @param barrier  over all processes.
/// @param gather   gives the strings of all ranks, in order, to each of them: `gather(my_string)`.
template <class Communicator, class Gather>
Outcomes run_in_this_process(Communicator mine, const Barrier& barrier, const Gather& gather,
                             const RankBody<Communicator>& body) {
  const Outcome outcome = run_rank<Communicator>(mine, barrier, body);
  const char* bytes = reinterpret_cast<const char*>(outcome.values.data());
  const std::vector<std::string> values = gather(std::string(bytes, outcome.values.size() * sizeof(double)));
  const std::vector<std::string> errors = gather(outcome.error);
  Outcomes all(values.size());
  for (std::size_t r = 0; r < all.size(); ++r) {
    all[r].values.resize(values[r].size() / sizeof(double));
    values[r].copy(reinterpret_cast<char*>(all[r].values.data()), values[r].size());
    all[r].error = errors[r];
  }
  return all;
}

template <class Communicator>
concept makes_all_ranks = requires {
  { Communicator::create(1) } -> std::same_as<std::vector<Communicator>>;
};

/// @brief The customization.
template <class Communicator>
struct Launcher {
  static Outcomes run(int ranks, const RankBody<Communicator>& body) {
    if constexpr (makes_all_ranks<Communicator>) {
      return run_on_threads(Communicator::create(ranks), body);
    } else {
      static_assert(
          syncbn::always_alone<Communicator>,
          "conformance: how are the ranks run? The communicator has neither  static std::vector<C> create(int "
          "ranks)  nor a specialisation of  syncbn_test::Launcher  (see conformance/launcher.hpp)");
      if (ranks != 1) return Outcomes(1, Outcome{{}, "a communicator of one rank cannot be tested with more"});
      return run_on_threads(std::vector<Communicator>(1), body);
    }
  }
};

/// @brief Whether the ranks can end as usual once the group was given up. @return true, unless the Launcher says otherwise.
template <class Communicator>
inline constexpr bool outlives_faults = [] {
  if constexpr (requires { Launcher<Communicator>::outlives_faults; }) {
    return Launcher<Communicator>::outlives_faults;
  } else {
    return true;
  }
}();

/// @brief How the host reaches the words of a frame: as its own memory, unless this is specialised.
template <class Communicator>
struct FrameAccess {
  using Frame = typename Communicator::frame;
  using Queue = typename Communicator::queue_type;

  /// @brief Before start(). @param words  as many as the frame has.
  static void write(Communicator&, Frame& frame, Queue&, const std::vector<double>& words) {
    std::copy(words.begin(), words.end(), frame.data());
  }
  /// @brief After finish().
  static std::vector<double> read(Communicator&, Frame& frame, Queue&) {
    return std::vector<double>(frame.data(), frame.data() + frame.size());
  }
};

/// @brief How many ranks this run is about: the environment's SYNCBN_TEST_RANKS, or else 2; at most 1 where no more is
/// possible.
template <class Communicator>
int ranks_under_test() {
  const char* text = std::getenv("SYNCBN_TEST_RANKS");
  if (text != nullptr) return std::atoi(text);
  return syncbn::always_alone<Communicator> ? 1 : 2;
}

/// @brief Runs the body on every rank. @param body  of a communicator, or of a communicator and a barrier.
template <class Communicator, class Body>
Outcomes run_ranks(const Body& body) {
  const int ranks = ranks_under_test<Communicator>();
  if constexpr (std::is_invocable_v<const Body&, Communicator&, const Barrier&>) {
    return Launcher<Communicator>::run(ranks, body);
  } else {
    return Launcher<Communicator>::run(ranks, [&](Communicator& c, const Barrier&) { return body(c); });
  }
}

}  // namespace syncbn_test
