#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <set>

#include "absl/status/statusor.h"
#include "server/base/mutex.h"
#include "server/base/request_context.h"

namespace keyload {

// Bounds the scratch memory of all loads together. A holder that keeps bytes which it does not use now, so that it need
// not make their memory again, registers a Reclaimer: idle bytes go to whoever waits. Thread-safe.
class ByteBudget {
 public:
  explicit ByteBudget(uint64_t limit_bytes) : limit_(limit_bytes) {}

  // Holds `bytes()` of the budget until destroyed. Movable.
  class Grant {
   public:
    Grant() = default;
    Grant(Grant&& other) noexcept;
    Grant& operator=(Grant&& other) noexcept;
    ~Grant();
    uint64_t bytes() const { return bytes_; }

   private:
    friend class ByteBudget;
    Grant(ByteBudget* budget, uint64_t bytes) : budget_(budget), bytes_(bytes) {}
    ByteBudget* budget_ = nullptr;
    uint64_t bytes_ = 0;
  };

  // Calls `give_back` whenever somebody begins to wait, until it is destroyed: it destroys the grants of what its owner
  // does not use now. It must be short and must ask the budget for nothing.
  class Reclaimer {
   public:
    Reclaimer(ByteBudget& budget, std::function<void()> give_back);
    ~Reclaimer();
    Reclaimer(const Reclaimer&) = delete;

   private:
    ByteBudget& budget_;
    const std::function<void()> give_back_;
    friend class ByteBudget;
  };

  // Blocks until the bytes are free and everybody who asked before has been served; LOAD_CANCELLED or DEADLINE_EXCEEDED
  // ends the wait. A demand over the limit is granted alone.
  absl::StatusOr<Grant> Acquire(uint64_t bytes, const RequestContext& context);
  // The same without waiting: UNAVAILABLE when the bytes are not free now, or somebody waits for them.
  absl::StatusOr<Grant> TryAcquire(uint64_t bytes);
  // Whether somebody waits: what becomes idle now should be given back.
  bool awaited() const { return waiting_ > 0; }
  uint64_t used() const;
  // What can still be granted.
  uint64_t unused() const;

 private:
  bool Fits(uint64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Wait(uint64_t number, uint64_t bytes, const RequestContext& context)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Release(uint64_t bytes);
  void ReclaimIdle();

  const uint64_t limit_;
  Mutex reclaim_mutex_;  // before every lock of a reclaimer and before mutex_
  std::set<const Reclaimer*> reclaimers_ ABSL_GUARDED_BY(reclaim_mutex_);
  mutable Mutex mutex_;
  CondVar freed_;
  uint64_t used_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<uint64_t, uint64_t> waiters_ ABSL_GUARDED_BY(mutex_);  // bytes by number, the first is the next
  uint64_t last_waiter_ ABSL_GUARDED_BY(mutex_) = 0;
  std::atomic<size_t> waiting_ = 0;  // as waiters_.size()
};

}  // namespace keyload
