#pragma once

#include <memory>
#include <utility>

#include "server/base/mutex.h"
#include "server/checkpoint/model_roots.h"

namespace keyload {

// The roots in force. Whoever has taken them keeps them as they were: a change is for those who ask later. Thread-safe.
class CurrentRoots {
 public:
  explicit CurrentRoots(ModelRoots roots) : roots_(std::make_shared<const ModelRoots>(std::move(roots))) {}

  std::shared_ptr<const ModelRoots> get() const {
    MutexLock lock(mutex_);
    return roots_;
  }
  void Set(ModelRoots roots) {
    auto next = std::make_shared<const ModelRoots>(std::move(roots));
    MutexLock lock(mutex_);
    roots_.swap(next);
  }

 private:
  mutable Mutex mutex_;
  std::shared_ptr<const ModelRoots> roots_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace keyload
