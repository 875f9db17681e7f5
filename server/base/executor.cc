#include "server/base/executor.h"

#include <pthread.h>

#include <algorithm>

#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/no_throw.h"
#include "server/base/pool_turn.h"

namespace keyload {
namespace {

// A pool does not grow beyond this for tasks that wait for what may never come.
constexpr size_t kMostSpareThreads = 64;
// Where callers have shares: from then on a caller's tasks that wait count in its share, so that others have spare
// threads too.
constexpr size_t kMostSpareThreadsOfCaller = kMostSpareThreads / 2;

size_t OrAll(size_t share, size_t all) { return share == 0 ? all : std::min(share, all); }

}  // namespace

// Of one of the pool's threads, for each of its tasks in turn.
class Executor::Turn : public PoolTurn {
 public:
  explicit Turn(Executor& executor) : executor_(executor) {}

  void set_caller(std::string_view caller) { caller_ = caller; }

  void GiveUp() override {
    MutexLock lock(executor_.mutex_);
    --executor_.running_;
    ++executor_.waiting_;
    executor_.queue_.Park(caller_);
    const size_t needed = executor_.turns_ + std::min(executor_.waiting_, kMostSpareThreads);
    if (executor_.threads_.size() < needed && !executor_.stopping_) executor_.Start();
    executor_.ready_.NotifyOne();
  }
  void TakeBack() override {
    MutexLock lock(executor_.mutex_);
    --executor_.waiting_;
    ++executor_.running_;
    executor_.queue_.Unpark(caller_);
  }

 private:
  Executor& executor_;
  std::string_view caller_;  // the queue's, until Done
};

Executor::Executor(const Options& options)
    : name_(options.name),
      turns_(std::max<size_t>(options.threads, 1)),
      queue_({.waiting = options.queue_limit,
              .caller_waiting = OrAll(options.caller_queue, options.queue_limit),
              .caller_running = OrAll(options.caller_threads, turns_),
              .caller_parked = options.caller_threads == 0 ? kMostSpareThreads : kMostSpareThreadsOfCaller}) {
  try {
    MutexLock lock(mutex_);
    threads_.reserve(turns_ + kMostSpareThreads);
    while (threads_.size() < turns_) Start();
  } catch (...) {
    Stop();
    throw;
  }
}

Executor::~Executor() { Stop(); }

void Executor::Stop() {
  std::vector<std::thread> threads;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    threads.swap(threads_);
  }
  ready_.NotifyAll();
  for (std::thread& thread : threads) thread.join();
}

// Spare threads are left out where the system has none to give.
void Executor::Start() {
  const bool spare = threads_.size() >= turns_;
  try {
    const std::string name = (name_ + "-" + std::to_string(threads_.size())).substr(0, 15);
    threads_.emplace_back([this] { Work(); });
    pthread_setname_np(threads_.back().native_handle(), name.c_str());
  } catch (...) {
    if (!spare) throw;
  }
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
  Turn turn(*this);
  const PoolTurn::Scope scope(turn);
  while (true) {
    Task task;
    std::string_view caller;
    {
      MutexLock lock(mutex_);
      // While it stops, what waits may still have to wait for a turn or for a task of the same caller.
      while (running_ >= turns_ || !queue_.Pop(task, caller)) {
        if (stopping_ && queue_.size() == 0) return;
        ready_.Wait(mutex_);
      }
      ++running_;
    }
    turn.set_caller(caller);
    Run(task);
    task = {};  // frees what it holds while it still has its turn, and before others of the caller run
    MutexLock lock(mutex_);
    --running_;
    queue_.Done(caller);
    stopping_ ? ready_.NotifyAll() : ready_.NotifyOne();
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
