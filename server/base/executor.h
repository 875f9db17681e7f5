#pragma once

#include <deque>
#include <string>
#include <thread>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "server/base/mutex.h"

namespace keyload {

// Threads and a bounded queue of tasks, run first in, first out. As many tasks run at a time as there are threads, and
// one more for each that has given its PoolTurn up, on a spare thread. Thread-safe.
class Executor {
 public:
  struct Options {
    std::string name;         // thread names are "<name>-<i>", cut to 15 characters
    size_t threads = 1;       // at least 1
    size_t queue_limit = 64;  // tasks waiting, beyond those that run
  };
  explicit Executor(const Options& options);
  // Runs what is queued, then joins. No task may submit from then on.
  ~Executor();

  // Queues `task`; false when the queue is full. Never blocks.
  [[nodiscard]] bool TrySubmit(absl::AnyInvocable<void()> task);
  size_t threads() const { return turns_; }  // without the spare ones
  size_t queued() const;

 private:
  class Turn;

  void Start() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Work();

  const std::string name_;
  const size_t turns_;
  const size_t queue_limit_;
  mutable Mutex mutex_;
  CondVar ready_;
  std::deque<absl::AnyInvocable<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  size_t running_ ABSL_GUARDED_BY(mutex_) = 0;  // tasks that have a turn
  size_t waiting_ ABSL_GUARDED_BY(mutex_) = 0;  // tasks that have given theirs up
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace keyload
