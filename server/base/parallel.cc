#include "server/base/parallel.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <utility>

#include "server/base/mutex.h"
#include "server/base/no_throw.h"

namespace keyload {
namespace {

// Lives as long as the last helper that was queued; `task_` only until the caller has closed it.
class ParallelLoop {
 public:
  ParallelLoop(size_t count, absl::FunctionRef<absl::Status(size_t)> task) : count_(count), task_(task) {}

  void Help() {
    {
      MutexLock lock(mutex_);
      if (closed_) return;
      ++helpers_;
    }
    Work();
    MutexLock lock(mutex_);
    if (--helpers_ == 0) idle_.NotifyAll();
  }

  absl::Status Run() {
    Work();
    MutexLock lock(mutex_);
    closed_ = true;  // whoever comes from the queue after this finds nothing to do
    while (helpers_ > 0) idle_.Wait(mutex_);
    return error_;
  }

 private:
  // Numbers are handed out in order: all that are below one that failed have been or are being called.
  void Work() {
    for (size_t i = next_++; i < count_ && i < failed_; i = next_++) {
      absl::Status status = NoThrow([&] { return task_(i); });
      if (status.ok()) continue;
      MutexLock lock(mutex_);
      if (i >= failed_) continue;
      failed_ = i;
      error_ = std::move(status);
    }
  }

  const size_t count_;
  const absl::FunctionRef<absl::Status(size_t)> task_;
  std::atomic<size_t> next_ = 0;
  std::atomic<size_t> failed_ = SIZE_MAX;
  Mutex mutex_;
  CondVar idle_;
  size_t helpers_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::Status ParallelFor(Executor* executor, size_t count, absl::FunctionRef<absl::Status(size_t)> task,
                         size_t most_helpers) {
  const auto loop = std::make_shared<ParallelLoop>(count, task);
  const size_t helpers =
      executor == nullptr || count < 2 ? 0 : std::min({executor->threads(), most_helpers, count - 1});
  // Without memory for one more there are fewer; those that have begun use what the caller owns until Run returns.
  NoThrow([&] {
    for (size_t i = 0; i < helpers; ++i) {
      if (!executor->TrySubmit([loop] { loop->Help(); })) break;
    }
  }).IgnoreError();
  return loop->Run();
}

}  // namespace keyload
