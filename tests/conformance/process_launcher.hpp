/// @file
/// Ranks that are processes, made by fork(): for communicators of POSIX systems that mpiexec does not start. See
/// docs/extending.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <pthread.h>
#include <string>
#include <unistd.h>
#include <vector>

#include <sys/mman.h>
#include <sys/wait.h>

#include "conformance/launcher.hpp"

namespace syncbn_test {

namespace detail {

// One that processes share.
class SharedBarrier {
 public:
  explicit SharedBarrier(int ranks) {
    void* memory = mmap(nullptr, sizeof(pthread_barrier_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    barrier_ = static_cast<pthread_barrier_t*>(memory);
    pthread_barrierattr_t attributes;
    pthread_barrierattr_init(&attributes);
    pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(barrier_, &attributes, static_cast<unsigned>(ranks));
    pthread_barrierattr_destroy(&attributes);
  }
  SharedBarrier(const SharedBarrier&) = delete;
  SharedBarrier& operator=(const SharedBarrier&) = delete;
  ~SharedBarrier() { munmap(barrier_, sizeof(pthread_barrier_t)); }

  void wait() { pthread_barrier_wait(barrier_); }

 private:
  pthread_barrier_t* barrier_;
};

inline void write_all(int file, const void* data, std::size_t size) {
  const char* from = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = write(file, from, size);
    if (written <= 0) return;  // the parent will miss it
    from += written;
    size -= static_cast<std::size_t>(written);
  }
}

inline std::string read_all(int file) {
  std::string all;
  char buffer[4096];
  for (ssize_t n = read(file, buffer, sizeof buffer); n > 0; n = read(file, buffer, sizeof buffer)) {
    all.append(buffer, static_cast<std::size_t>(n));
  }
  return all;
}

inline Outcome outcome_of(const std::string& bytes) {
  std::uint64_t values = 0;
  if (bytes.size() < sizeof values) return {{}, "the process of this rank has died"};
  bytes.copy(reinterpret_cast<char*>(&values), sizeof values);
  Outcome outcome;
  outcome.values.resize(values);
  bytes.copy(reinterpret_cast<char*>(outcome.values.data()), values * sizeof(double), sizeof values);
  outcome.error = bytes.substr(sizeof values + values * sizeof(double));
  return outcome;
}

}  // namespace detail

/// @brief One process for each rank. @param ranks  how many. @param make  the communicator of a rank, called in its process.
template <class Communicator, class Make>
Outcomes run_on_processes(int ranks, const Make& make, const RankBody<Communicator>& body) {
  detail::SharedBarrier barrier(ranks);
  std::vector<int> results;
  for (int rank = 0; rank < ranks; ++rank) {
    int ends[2];
    if (pipe(ends) != 0) throw std::bad_alloc();
    results.push_back(ends[0]);
    if (fork() != 0) {
      close(ends[1]);
      continue;
    }
    {
      Communicator mine = make(rank);
      const Outcome outcome = run_rank<Communicator>(mine, [&] { barrier.wait(); }, body);
      const std::uint64_t values = outcome.values.size();
      detail::write_all(ends[1], &values, sizeof values);
      detail::write_all(ends[1], outcome.values.data(), values * sizeof(double));
      detail::write_all(ends[1], outcome.error.data(), outcome.error.size());
    }
    _exit(0);
  }
  Outcomes outcomes;
  for (const int file : results) {
    outcomes.push_back(detail::outcome_of(detail::read_all(file)));
    close(file);
  }
  while (wait(nullptr) > 0) {
  }
  return outcomes;
}

}  // namespace syncbn_test
