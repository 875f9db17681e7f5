#pragma once

#include <chrono>
#include <cstddef>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "server/base/error.h"
#include "server/base/mutex.h"
#include "server/base/no_throw.h"
#include "server/base/retry.h"
#include "server/base/strings.h"
#include "server/rpc/caller.h"

namespace keyload {

// A call that is open and can be told to end: gRPC itself tells an idle stream nothing before the shutdown's deadline.
class LiveCall {
 public:
  using Clock = std::chrono::steady_clock;

  virtual ~LiveCall() = default;
  // Ends the call with UNAVAILABLE / DRAINING as soon as it has nothing left to do. Never blocks.
  virtual void Drain() = 0;
  // Ends it now: what it still does is cancelled. Never blocks.
  virtual void Cancel() = 0;
  // Ends it if for `limit` its client has taken too little of what it was sent, or has not sent what it began to. Never
  // blocks.
  virtual void CancelIfUnread(Clock::time_point /*now*/, Clock::duration /*limit*/) {}
};

// The open calls of a server, in all and per peer. Thread-safe; what it calls of a call runs under the lock, so they
// must not remove it themselves but through gRPC's OnDone, on another thread.
class LiveCalls {
 public:
  struct Limits {
    size_t total = 4096;
    size_t per_peer = 2048;
  };
  explicit LiveCalls(const Limits& limits) : limits_(limits) {}

  // Whether another call of `peer` may begin: LOAD_QUEUE_FULL else. Those that begin at the same moment may be a few
  // more than the limit.
  absl::Status CheckRoom(const std::string& peer) const {
    MutexLock lock(mutex_);
    if (calls_.size() >= limits_.total) {
      return Annotate(TooManyWaiting(absl::Seconds(1)), StrCat(limits_.total, " calls are open"));
    }
    const auto it = of_peer_.find(peer);
    if (it == of_peer_.end() || it->second < limits_.per_peer) return absl::OkStatus();
    return Annotate(TooManyWaiting(absl::Seconds(1)), StrCat(limits_.per_peer, " calls of this client are open"));
  }

  // Keeps a call among the open ones while it lives. A call has it as its last member: whatever its constructor throws,
  // the call is no longer known when its other members go.
  class Entry {
   public:
    Entry(LiveCalls& calls, LiveCall* call, const std::string& peer) : calls_(calls), call_(call) {
      MutexLock lock(calls_.mutex_);
      size_t& count = calls_.of_peer_[peer];
      calls_.calls_.emplace(call, peer);
      ++count;
    }
    ~Entry() {
      MutexLock lock(calls_.mutex_);
      const auto it = calls_.calls_.find(call_);
      if (const auto count = calls_.of_peer_.find(it->second); --count->second == 0) calls_.of_peer_.erase(count);
      calls_.calls_.erase(it);
    }
    Entry(const Entry&) = delete;
    Entry& operator=(const Entry&) = delete;

   private:
    LiveCalls& calls_;
    LiveCall* const call_;
  };

  void DrainAll() {
    MutexLock lock(mutex_);
    for (const auto& [call, peer] : calls_) call->Drain();
  }
  void CancelAll() {
    MutexLock lock(mutex_);
    for (const auto& [call, peer] : calls_) call->Cancel();
  }
  void CancelUnread(std::chrono::steady_clock::duration limit) {
    const auto now = std::chrono::steady_clock::now();
    MutexLock lock(mutex_);
    for (const auto& [call, peer] : calls_) NoThrow([&] { call->CancelIfUnread(now, limit); }).IgnoreError();
  }
  size_t size() const {
    MutexLock lock(mutex_);
    return calls_.size();
  }

 private:
  const Limits limits_;
  mutable Mutex mutex_;
  absl::flat_hash_map<LiveCall*, std::string> calls_ ABSL_GUARDED_BY(mutex_);  // with their peers
  absl::flat_hash_map<std::string, size_t> of_peer_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace keyload
