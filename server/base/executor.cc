#include "server/base/executor.h"

#include <pthread.h>

#include <algorithm>

#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/no_throw.h"

namespace keyload {
namespace {

size_t OrAll(size_t share, size_t all) { return share == 0 ? all : std::min(share, all); }

}  // namespace

Executor::Executor(const Options& options)
    : name_(options.name),
      queue_({.waiting = options.queue_limit,
              .caller_waiting = OrAll(options.caller_queue, options.queue_limit),
              .caller_running = OrAll(options.caller_threads, std::max<size_t>(options.threads, 1))}) {
  const size_t count = std::max<size_t>(options.threads, 1);
  threads_.reserve(count);
  try {
    for (size_t i = 0; i < count; ++i) {
      threads_.emplace_back([this] { Work(); });
      const std::string name = (name_ + "-" + std::to_string(i)).substr(0, 15);
      pthread_setname_np(threads_.back().native_handle(), name.c_str());
    }
  } catch (...) {
    Stop();
    throw;
  }
}

Executor::~Executor() { Stop(); }

void Executor::Stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  ready_.NotifyAll();
  for (std::thread& thread : threads_) thread.join();
}

absl::Status Executor::Submit(Task task) {
  {
    MutexLock lock(mutex_);
    const std::string caller = task.caller;
    if (stopping_ || !queue_.Push(caller, std::move(task))) return TooManyWaiting();
  }
  ready_.NotifyOne();
  return absl::OkStatus();
}

size_t Executor::queued() const {
  MutexLock lock(mutex_);
  return queue_.size();
}

void Executor::Work() {
  while (true) {
    Task task;
    std::string_view caller;
    {
      MutexLock lock(mutex_);
      // While it stops, what waits may still have to wait for a task of the same caller.
      while (!queue_.Pop(task, caller)) {
        if (stopping_ && queue_.size() == 0) return;
        ready_.Wait(mutex_);
      }
    }
    Run(task);
    task = {};  // frees what it holds before others of the caller run
    MutexLock lock(mutex_);
    queue_.Done(caller);
    if (stopping_) ready_.NotifyAll();
  }
}

void Executor::Run(Task& task) noexcept {
  const absl::Status thrown = NoThrow(task.run);
  if (thrown.ok()) return;
  // Where memory is that short, the message may be left out.
  if (task.fail && NoThrow([&] { task.fail(thrown); }).ok()) return;
  const absl::Status bare(thrown.code(), "");
  if (task.fail && NoThrow([&] { task.fail(bare); }).ok()) return;
  NoThrow([&] {
    Log(LogLevel::kError, "task failed", {{"executor", name_}, {"message", std::string(thrown.message())}});
  }).IgnoreError();
}

}  // namespace keyload
