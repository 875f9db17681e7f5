#pragma once

#include <deque>
#include <string>
#include <thread>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "server/base/mutex.h"

namespace keyload {

// A fixed number of threads and a bounded queue of tasks, run first in, first out. Thread-safe.
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
  size_t threads() const { return threads_.size(); }
  size_t queued() const;

 private:
  void Work();

  const size_t queue_limit_;
  mutable Mutex mutex_;
  CondVar ready_;
  std::deque<absl::AnyInvocable<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;  // constant after construction
};

}  // namespace keyload
