#include "server/base/executor.h"

#include <pthread.h>

#include <algorithm>
#include <system_error>

#include "server/base/pool_turn.h"

namespace keyload {
namespace {

// A pool does not grow beyond this for tasks that wait for what may never come.
constexpr size_t kMostSpareThreads = 64;

}  // namespace

class Executor::Turn : public PoolTurn {
 public:
  explicit Turn(Executor& executor) : executor_(executor) {}

  void GiveUp() override {
    MutexLock lock(executor_.mutex_);
    --executor_.running_;
    ++executor_.waiting_;
    const size_t needed = executor_.turns_ + std::min(executor_.waiting_, kMostSpareThreads);
    if (executor_.threads_.size() < needed && !executor_.stopping_) executor_.Start();
    executor_.ready_.NotifyOne();
  }
  void TakeBack() override {
    MutexLock lock(executor_.mutex_);
    --executor_.waiting_;
    ++executor_.running_;
  }

 private:
  Executor& executor_;
};

Executor::Executor(const Options& options)
    : name_(options.name), turns_(std::max<size_t>(options.threads, 1)), queue_limit_(options.queue_limit) {
  MutexLock lock(mutex_);
  while (threads_.size() < turns_) Start();
}

Executor::~Executor() {
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
    threads_.emplace_back([this] { Work(); });
  } catch (const std::system_error&) {
    if (!spare) throw;
    return;
  }
  const std::string name = (name_ + "-" + std::to_string(threads_.size() - 1)).substr(0, 15);
  pthread_setname_np(threads_.back().native_handle(), name.c_str());
}

bool Executor::TrySubmit(absl::AnyInvocable<void()> task) {
  {
    MutexLock lock(mutex_);
    if (stopping_ || queue_.size() >= queue_limit_) return false;
    queue_.push_back(std::move(task));
  }
  ready_.NotifyOne();
  return true;
}

size_t Executor::queued() const {
  MutexLock lock(mutex_);
  return queue_.size();
}

void Executor::Work() {
  Turn turn(*this);
  const PoolTurn::Scope scope(turn);
  while (true) {
    absl::AnyInvocable<void()> task;
    {
      MutexLock lock(mutex_);
      while (queue_.empty() ? !stopping_ : running_ >= turns_) ready_.Wait(mutex_);
      if (queue_.empty()) return;
      task = std::move(queue_.front());
      queue_.pop_front();
      ++running_;
    }
    task();
    task = nullptr;  // frees what it holds while it still has its turn
    MutexLock lock(mutex_);
    --running_;
    stopping_ ? ready_.NotifyAll() : ready_.NotifyOne();
  }
}

}  // namespace keyload
