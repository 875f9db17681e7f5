#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "server/base/mutex.h"
#include "server/base/request_context.h"

namespace keyload {

// Bounds the scratch memory of all loads together. Thread-safe.
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

  // Blocks until the bytes are free; LOAD_CANCELLED or DEADLINE_EXCEEDED ends the wait. A demand over the limit is
  // granted alone.
  absl::StatusOr<Grant> Acquire(uint64_t bytes, const RequestContext& context);
  // The same without waiting: UNAVAILABLE when the bytes are not free now.
  absl::StatusOr<Grant> TryAcquire(uint64_t bytes);
  uint64_t used() const;

 private:
  bool Fits(uint64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Release(uint64_t bytes);

  const uint64_t limit_;
  mutable Mutex mutex_;
  CondVar freed_;
  uint64_t used_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace keyload
