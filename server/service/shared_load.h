#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/base/mutex.h"
#include "server/base/request_context.h"
#include "server/service/load_observer.h"

namespace keyload {

// Whether a request that comes again gets this end as its answer: it was done, or decided.
bool IsAnswer(const absl::StatusOr<LoadReport>& result);

// Whether a caller who hears `end` has only left: its load goes on.
bool GoesOn(const absl::Status& end);

// What a load is called, and what was asked for.
struct LoadIdentity {
  std::string load;  // the name that the server gave it: "load-000007"
  std::string model;
  std::string request_id;  // that the caller gave it; empty: none
  std::string digest;      // of the whole request; empty: it equals no other
};

// A load at one moment.
struct LoadStatus {
  LoadIdentity identity;
  bool done = false;
  std::optional<LoadProgress> progress;                      // the last one, while it runs
  std::shared_ptr<const absl::StatusOr<LoadReport>> result;  // once it is done: a report, or why it never got a plan
};

// One load and those who wait for it. It runs for as long as one of them does, or to its end if one of them asked for
// that. Thread-safe.
class SharedLoad {
 public:
  struct Waiter {
    std::shared_ptr<LoadObserver> observer;
    Deadline deadline;           // the load's is the latest one
    bool detach = false;         // the load runs to its end, whoever leaves
    int32_t priority = 0;        // the load's is the largest one
    absl::Duration memory_wait;  // the load's is the longest one
  };
  // Callers of one load at a time, and as many lookers-on: each costs a stream, and messages for all that the load
  // tells. They are counted apart, so that those who may only look keep out nobody who may load.
  static constexpr size_t kMostWaiters = 1000;
  using WaiterId = uint64_t;
  static constexpr WaiterId kNobody = 0;  // has heard the end already

  // `caller`: who started it; null: nobody.
  explicit SharedLoad(LoadIdentity identity, std::shared_ptr<const Caller> caller = nullptr);

  const LoadIdentity& identity() const { return identity_; }
  LoadStatus status() const;
  // What the load itself runs under, with who started it.
  const RequestContext& context() const { return context_; }
  // Which of the loads that wait goes first: the larger one.
  int32_t priority() const { return priority_; }
  // How long it may wait for memory that others use now.
  absl::Duration memory_wait() const { return absl::Nanoseconds(memory_wait_ns_.load()); }

  // The first caller's, which the load begins for. It hears all that follows.
  WaiterId Begin(Waiter waiter);
  // Another caller's. It hears what was told before, and all that follows: at least OnAccepted and OnEnd. It hears
  // nothing when the load was stopped or is too late, as such an end concerns nobody who comes now (MODEL_BUSY), or
  // when kMostWaiters are there already (LOAD_QUEUE_FULL).
  absl::StatusOr<WaiterId> Join(Waiter waiter);
  // The same for one who only looks on, at any load. LOAD_QUEUE_FULL.
  absl::StatusOr<WaiterId> Watch(std::shared_ptr<LoadObserver> observer);
  // Whether an equal request may still join: until Close, unless it was stopped.
  bool joinable() const;
  // From now on an equal request is a load of its own, or finds the model. For whoever has the request's id it is still
  // the same load.
  void Close();
  // The waiter is gone, or wants no more. Its observer hears LOAD_CANCELLED at once if the load goes on for others, or
  // because it is detached; else the load is stopped, and it hears the load's end. By a Cancel that nobody else waits
  // with, a detached load is stopped too. Of a load that was stopped everybody hears the end.
  void Leave(WaiterId waiter);
  void Cancel(WaiterId waiter);
  // Stops the load for everybody.
  void Stop();

  // What the load tells. End is the last, and needs a context in which observers may call anything.
  void Planned(const LoadReport& report);
  void Progress(const LoadProgress& progress);
  void End(absl::StatusOr<LoadReport> result) noexcept;

 private:
  struct Entry {
    Waiter waiter;
    bool watches = false;  // the load does not run for it
  };

  // What the load takes over from a caller: no less than it has.
  void Adopt(const Waiter& waiter) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  WaiterId Add(Entry entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status RoomFor(bool watcher) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Remove(WaiterId waiter, bool cancels);

  const LoadIdentity identity_;
  std::stop_source stop_;  // asked under the lock: whoever joins sees it, or is waited for
  const std::shared_ptr<SharedDeadline> deadline_;
  const RequestContext context_;
  std::atomic<int32_t> priority_ = std::numeric_limits<int32_t>::min();  // until the first caller
  std::atomic<int64_t> memory_wait_ns_ = 0;

  // What End tells where there is no memory left to keep its result.
  const std::shared_ptr<const absl::StatusOr<LoadReport>> end_without_memory_;

  mutable Mutex mutex_;  // held while observers hear anything but the end
  WaiterId last_waiter_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<WaiterId, Entry> waiters_ ABSL_GUARDED_BY(mutex_);
  size_t watchers_ ABSL_GUARDED_BY(mutex_) = 0;  // of waiters_
  bool detached_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<LoadReport> plan_ ABSL_GUARDED_BY(mutex_);  // until it is done
  LoadStatus status_ ABSL_GUARDED_BY(mutex_);
};

// A caller's part in a load, from before the load begins until after its end: Leave and Cancel may come at any time and
// mean what they mean to a waiter. Thread-safe.
class LoadTicket {
 public:
  void Leave() { Give(Wish::kLeave); }
  void Cancel() { Give(Wish::kCancel); }
  // Stops with the first of them: for what is done for this caller alone.
  std::stop_token stop_token() const { return stop_.get_token(); }
  // The caller is waiter number `waiter` of `load` from now on. Called once at most.
  void Bind(std::shared_ptr<SharedLoad> load, SharedLoad::WaiterId waiter);

 private:
  enum class Wish { kNone, kLeave, kCancel };  // the stronger one counts
  void Give(Wish wish);

  std::stop_source stop_;
  Mutex mutex_;
  std::shared_ptr<SharedLoad> load_ ABSL_GUARDED_BY(mutex_);
  SharedLoad::WaiterId waiter_ ABSL_GUARDED_BY(mutex_) = 0;
  Wish wish_ ABSL_GUARDED_BY(mutex_) = Wish::kNone;
};

}  // namespace keyload
