#include "work_queue.hpp"

#include <utility>

#include "devices.hpp"
#include "options.hpp"

namespace cuda_emulation {
namespace {

const std::thread::id nobody;

}  // namespace

void WorkQueue::stop() {
  reach(last());
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

long WorkQueue::put(Task task, bool in_background) {
  const std::lock_guard lock(mutex_);
  if (stopping_) {
    violate("work is put into a stream that was destroyed");
    return done_;
  }
  entries_.push_back({std::move(task), in_background});
  if (in_background && !has_thread_) {
    has_thread_ = true;
    thread_ = std::thread([this] { serve(); });
    if (lasting_) thread_.detach();
  }
  changed_.notify_all();
  return done_ + (busy_ == nobody ? 0 : 1) + static_cast<long>(entries_.size());
}

long WorkQueue::last() const {
  const std::lock_guard lock(mutex_);
  return done_ + (busy_ == nobody ? 0 : 1) + static_cast<long>(entries_.size());
}

bool WorkQueue::has_done(long number) const {
  const std::lock_guard lock(mutex_);
  return done_ >= number;
}

void WorkQueue::reach(long number) {
  std::unique_lock lock(mutex_);
  while (done_ < number) {
    if (busy_ == std::this_thread::get_id()) {
      violate("work of a stream waits for that stream");
      return;
    }
    if (busy_ != nobody || entries_.front().in_background) {
      changed_.wait(lock);
    } else {
      do_first(lock);
    }
  }
}

void WorkQueue::serve() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(
        lock, [this] { return stopping_ || (busy_ == nobody && !entries_.empty() && entries_.front().in_background); });
    if (stopping_) return;
    do_first(lock);
  }
}

void WorkQueue::do_first(std::unique_lock<std::mutex>& lock) {
  busy_ = std::this_thread::get_id();
  Task task = std::move(entries_.front().task);
  entries_.pop_front();
  lock.unlock();
  {
    const OnDevice on(device_);
    task();
    task = nullptr;  // what it holds is released before anybody knows that it is done
  }
  lock.lock();
  busy_ = nobody;
  ++done_;
  changed_.notify_all();
}

}  // namespace cuda_emulation
