#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

// Tasks that are done one after another: what a stream is.

namespace cuda_emulation {

using Task = std::function<void()>;

class WorkQueue {
 public:
  // lasting: never stopped; its thread may work until the program ends.
  WorkQueue(int device, bool lasting) : device_(device), lasting_(lasting) {}
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  // Puts a task at the end, for the thread of this queue (in_background) or for whoever waits first. Returns its number.
  long put(Task task, bool in_background);
  // The number of the last task.
  long last() const;
  bool has_done(long number) const;
  // Waits for a task and all before it, and does what is not for the thread of this queue.
  void reach(long number);
  // For good, after the last task.
  void stop();

 private:
  struct Entry {
    Task task;
    bool in_background;
  };

  void serve();
  void do_first(std::unique_lock<std::mutex>& lock);

  const int device_;
  const bool lasting_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Entry> entries_;
  long done_ = 0;
  std::thread::id busy_;  // who does a task now
  bool stopping_ = false;
  bool has_thread_ = false;
  std::thread thread_;
};

}  // namespace cuda_emulation
