#pragma once

#include <chrono>

#include "absl/container/flat_hash_set.h"
#include "server/base/mutex.h"

namespace keyload {

// A call that is open and can be told to end: gRPC itself tells an idle stream nothing before the shutdown's deadline.
class LiveCall {
 public:
  virtual ~LiveCall() = default;
  // Ends the call with UNAVAILABLE / DRAINING as soon as it has nothing left to do. Never blocks.
  virtual void Drain() = 0;
  // Ends it now: what it still does is cancelled. Never blocks.
  virtual void Cancel() = 0;
  // Ends it if its client has not taken what it was sent, or sent what it began to, since `time`. Never blocks.
  virtual void CancelIfUnread(std::chrono::steady_clock::time_point /*time*/) {}
};

// The open calls of a server. Thread-safe; what it calls of a call runs under the lock, so they must not remove it
// themselves but through gRPC's OnDone, on another thread.
class LiveCalls {
 public:
  void Add(LiveCall* call) {
    MutexLock lock(mutex_);
    calls_.insert(call);
  }
  void Remove(LiveCall* call) {
    MutexLock lock(mutex_);
    calls_.erase(call);
  }
  void DrainAll() {
    MutexLock lock(mutex_);
    for (LiveCall* call : calls_) call->Drain();
  }
  void CancelAll() {
    MutexLock lock(mutex_);
    for (LiveCall* call : calls_) call->Cancel();
  }
  void CancelUnread(std::chrono::steady_clock::time_point time) {
    MutexLock lock(mutex_);
    for (LiveCall* call : calls_) call->CancelIfUnread(time);
  }
  size_t size() const {
    MutexLock lock(mutex_);
    return calls_.size();
  }

 private:
  mutable Mutex mutex_;
  absl::flat_hash_set<LiveCall*> calls_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace keyload
