#include "server/io/byte_budget.h"

#include <algorithm>
#include <chrono>
#include <stop_token>
#include <utility>

#include "absl/time/time.h"
#include "server/base/error.h"

namespace keyload {
namespace {

constexpr absl::Duration kLongestWait = absl::Hours(1);  // cut into pieces, which clocks can count

}  // namespace

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

ByteBudget::Reclaimer::Reclaimer(ByteBudget& budget, std::function<void()> give_back)
    : budget_(budget), give_back_(std::move(give_back)) {
  MutexLock lock(budget_.reclaim_mutex_);
  budget_.reclaimers_.insert(this);
}

ByteBudget::Reclaimer::~Reclaimer() {
  MutexLock lock(budget_.reclaim_mutex_);
  budget_.reclaimers_.erase(this);
}

absl::StatusOr<ByteBudget::Grant> ByteBudget::Acquire(uint64_t bytes, const RequestContext& context) {
  // Taking the mutex before the notification closes the gap between a waiter's check and its wait. The callback is made
  // before, and destroyed after, the lock below: both may run it or wait for it.
  std::stop_callback wake(context.stop, [this] {
    MutexLock lock(mutex_);
    freed_.NotifyAll();
  });
  uint64_t number = 0;
  {
    MutexLock lock(mutex_);
    KEYLOAD_RETURN_IF_ERROR(context.Check());
    if (waiters_.empty() && Fits(bytes)) {
      used_ += bytes;
      return Grant(this, bytes);
    }
    number = ++last_waiter_;
    waiters_.emplace(number, bytes);
    waiting_ = waiters_.size();
  }
  ReclaimIdle();  // what becomes idle from now on is given back because somebody waits
  MutexLock lock(mutex_);
  const absl::Status status = Wait(number, bytes, context);
  waiters_.erase(number);
  waiting_ = waiters_.size();
  if (status.ok()) used_ += bytes;
  freed_.NotifyAll();  // the next one may be served too
  if (!status.ok()) return status;
  return Grant(this, bytes);
}

absl::Status ByteBudget::Wait(uint64_t number, uint64_t bytes, const RequestContext& context) {
  while (true) {
    KEYLOAD_RETURN_IF_ERROR(context.Check());
    if (waiters_.begin()->first == number && Fits(bytes)) return absl::OkStatus();
    freed_.WaitFor(mutex_, absl::ToChronoNanoseconds(std::min(context.end().left(), kLongestWait)));
  }
}

absl::StatusOr<ByteBudget::Grant> ByteBudget::TryAcquire(uint64_t bytes) {
  MutexLock lock(mutex_);
  if (!waiters_.empty() || !Fits(bytes)) return absl::UnavailableError("the scratch budget is in use");
  used_ += bytes;
  return Grant(this, bytes);
}

bool ByteBudget::Fits(uint64_t bytes) const { return used_ == 0 || (used_ <= limit_ && bytes <= limit_ - used_); }

uint64_t ByteBudget::used() const {
  MutexLock lock(mutex_);
  return used_;
}

uint64_t ByteBudget::unused() const {
  MutexLock lock(mutex_);
  return limit_ - std::min(limit_, used_);
}

void ByteBudget::Release(uint64_t bytes) {
  {
    MutexLock lock(mutex_);
    used_ -= bytes;
  }
  freed_.NotifyAll();
}

void ByteBudget::ReclaimIdle() {
  MutexLock lock(reclaim_mutex_);
  for (const Reclaimer* reclaimer : reclaimers_) reclaimer->give_back_();
}

}  // namespace keyload
