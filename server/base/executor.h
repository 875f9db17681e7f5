#pragma once

#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "server/base/fair_queue.h"
#include "server/base/mutex.h"

namespace keyload {

// Threads and a bounded queue of tasks. As many tasks run at a time as there are threads, and one more for each that
// has given its PoolTurn up, on a spare thread. Callers take turns, and each has its share of the threads and of the
// queue; the tasks of one caller run first in, first out. An exception that leaves a task ends that task alone.
// Thread-safe.
class Executor {
 public:
  struct Options {
    std::string name;           // thread names are "<name>-<i>", cut to 15 characters
    size_t threads = 1;         // at least 1
    size_t queue_limit = 64;    // tasks waiting, beyond those that run
    size_t caller_threads = 0;  // that run tasks of one caller at a time; 0: all
    size_t caller_queue = 0;    // tasks of one caller that wait; 0: as many as the queue holds
  };
  struct Task {
    std::string caller = {};  // whose share it takes; tasks without a caller share one
    absl::AnyInvocable<void()> run;
    // Called on the same thread when an exception leaves `run`, to answer whoever waits for the task; empty: nobody
    // does, and the log has the exception.
    absl::AnyInvocable<void(const absl::Status&)> fail = {};
  };

  // Throws std::system_error when the system gives no thread.
  explicit Executor(const Options& options);
  // Runs what is queued, then joins. No task may be submitted from then on.
  ~Executor();

  // Queues `task`. LOAD_QUEUE_FULL when the queue, or the caller's part of it, is full: nothing of the task is called
  // then. Never blocks.
  absl::Status Submit(Task task);
  // The same for work that nobody waits for.
  [[nodiscard]] bool TrySubmit(absl::AnyInvocable<void()> run) { return Submit({.run = std::move(run)}).ok(); }
  size_t threads() const { return turns_; }  // without the spare ones
  size_t queued() const;

 private:
  class Turn;

  void Start() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Work();
  void Run(Task& task) noexcept;
  void Stop();

  const std::string name_;
  const size_t turns_;
  mutable Mutex mutex_;
  CondVar ready_;
  FairQueue<Task> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  size_t running_ ABSL_GUARDED_BY(mutex_) = 0;  // tasks that have a turn
  size_t waiting_ ABSL_GUARDED_BY(mutex_) = 0;  // tasks that have given theirs up
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace keyload
