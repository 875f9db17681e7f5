#include "server/io/byte_budget.h"

#include <algorithm>
#include <chrono>
#include <stop_token>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/base/error.h"

namespace keyload {

ByteBudget::Grant::Grant(Grant&& other) noexcept
    : budget_(std::exchange(other.budget_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

ByteBudget::Grant& ByteBudget::Grant::operator=(Grant&& other) noexcept {
  std::swap(budget_, other.budget_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

ByteBudget::Grant::~Grant() {
  if (budget_ != nullptr) budget_->Release(bytes_);
}

absl::StatusOr<ByteBudget::Grant> ByteBudget::Acquire(uint64_t bytes, const RequestContext& context) {
  // Taking the mutex before the notification closes the gap between a waiter's check and its wait. The callback is made
  // before, and destroyed after, the lock below: both may run it or wait for it.
  std::stop_callback wake(context.stop, [this] {
    MutexLock lock(mutex_);
    freed_.NotifyAll();
  });
  MutexLock lock(mutex_);
  while (true) {
    KEYLOAD_RETURN_IF_ERROR(context.Check());
    if (Fits(bytes)) break;
    const absl::Time end = context.end();
    if (end == absl::InfiniteFuture()) {  // no deadline comes any more
      freed_.Wait(mutex_);
    } else {
      // Short waits, because the deadline is by the wall clock, which may be set.
      freed_.WaitFor(mutex_, absl::ToChronoNanoseconds(
                                 std::clamp(end - absl::Now(), absl::ZeroDuration(), absl::Milliseconds(50))));
    }
  }
  used_ += bytes;
  return Grant(this, bytes);
}

absl::StatusOr<ByteBudget::Grant> ByteBudget::TryAcquire(uint64_t bytes) {
  MutexLock lock(mutex_);
  if (!Fits(bytes)) return absl::UnavailableError("the scratch budget is in use");
  used_ += bytes;
  return Grant(this, bytes);
}

bool ByteBudget::Fits(uint64_t bytes) const { return used_ == 0 || (used_ <= limit_ && bytes <= limit_ - used_); }

uint64_t ByteBudget::used() const {
  MutexLock lock(mutex_);
  return used_;
}

void ByteBudget::Release(uint64_t bytes) {
  {
    MutexLock lock(mutex_);
    used_ -= bytes;
  }
  freed_.NotifyAll();
}

}  // namespace keyload
