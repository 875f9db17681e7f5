#include "server/service/shared_load.h"

#include <algorithm>
#include <utility>

#include "server/base/error.h"
#include "server/base/no_throw.h"
#include "server/base/retry.h"
#include "server/base/strings.h"

namespace keyload {

bool IsAnswer(const absl::StatusOr<LoadReport>& result) {
  return result.ok() && (result->outcome == Outcome::kComplete || result->outcome == Outcome::kIncomplete ||
                         result->outcome == Outcome::kRejected);
}

bool GoesOn(const absl::Status& end) {
  return ErrorReason(end) == Reason::kLoadCancelled && ErrorDetails(end).contains("goes_on");
}

namespace {

bool IsCancelled(const absl::StatusOr<LoadReport>& result) {
  const Reason reason = ErrorReason(result.ok() ? result->error : result.status());
  return reason == Reason::kLoadCancelled || reason == Reason::kDeadlineExceeded;
}

// One caller's trouble with memory is no other's: it hears of that instead.
void TellEnd(LoadObserver& observer, const absl::StatusOr<LoadReport>& result) {
  const absl::Status thrown = NoThrow([&] { observer.OnEnd(result); });
  if (!thrown.ok()) NoThrow([&] { observer.OnEnd(thrown); }).IgnoreError();
}

}  // namespace

SharedLoad::SharedLoad(LoadIdentity identity, std::shared_ptr<const Caller> caller)
    : identity_(std::move(identity)),
      deadline_(std::make_shared<SharedDeadline>(Deadline(Deadline::Clock::time_point::min()))),
      context_{.stop = stop_.get_token(), .shared_deadline = deadline_, .caller = std::move(caller)},
      end_without_memory_(std::make_shared<const absl::StatusOr<LoadReport>>(MakeError(
          Reason::kMemoryExhausted, StrCat("the daemon had no memory left to tell the end of ", identity_.load)))),
      status_{.identity = identity_} {}

LoadStatus SharedLoad::status() const {
  MutexLock lock(mutex_);
  return status_;
}

SharedLoad::WaiterId SharedLoad::Begin(Waiter waiter) {
  MutexLock lock(mutex_);
  waiter.observer->OnAccepted(identity_.load, /*joined=*/false);
  return Add({.waiter = std::move(waiter)});
}

absl::Status SharedLoad::RoomFor(bool watcher) const {
  const size_t count = watcher ? watchers_ : waiters_.size() - watchers_;
  if (count < kMostWaiters) return absl::OkStatus();
  return MakeError(Reason::kLoadQueueFull,
                   StrCat(identity_.load, " of model ", identity_.model, ": ", count, " callers ",
                          watcher ? "watch" : "wait for", " it already; try again later, or ask for it with GetLoad"),
                   {{"load", identity_.load}, {"model", identity_.model}, {std::string(kRetryDelay), "1"}});
}

absl::StatusOr<SharedLoad::WaiterId> SharedLoad::Join(Waiter waiter) {
  std::shared_ptr<const absl::StatusOr<LoadReport>> result;
  {
    MutexLock lock(mutex_);
    result = status_.result;
    if (result == nullptr ? !context_.Check().ok() : IsCancelled(*result)) {
      return MakeError(Reason::kModelBusy,
                       StrCat("model ", identity_.model, ": ", identity_.load, " was cancelled or is too late"),
                       {{"model", identity_.model}, {"load", identity_.load}});
    }
    if (result == nullptr) KEYLOAD_RETURN_IF_ERROR(RoomFor(/*watcher=*/false));
    waiter.observer->OnAccepted(identity_.load, /*joined=*/true);
    if (result == nullptr) return Add({.waiter = std::move(waiter)});
  }
  TellEnd(*waiter.observer, *result);
  return kNobody;
}

absl::StatusOr<SharedLoad::WaiterId> SharedLoad::Watch(std::shared_ptr<LoadObserver> observer) {
  std::shared_ptr<const absl::StatusOr<LoadReport>> result;
  {
    MutexLock lock(mutex_);
    result = status_.result;
    if (result == nullptr) KEYLOAD_RETURN_IF_ERROR(RoomFor(/*watcher=*/true));
    observer->OnAccepted(identity_.load, /*joined=*/true);
    if (result == nullptr) return Add({.waiter = {.observer = std::move(observer)}, .watches = true});
  }
  TellEnd(*observer, *result);
  return kNobody;
}

void SharedLoad::Adopt(const Waiter& waiter) {
  deadline_->Extend(waiter.detach ? Deadline::Never() : waiter.deadline);
  priority_ = std::max(priority_.load(), waiter.priority);
  memory_wait_ns_ = std::max(memory_wait_ns_.load(), absl::ToInt64Nanoseconds(waiter.memory_wait));
}

SharedLoad::WaiterId SharedLoad::Add(Entry entry) {
  const Waiter& waiter = entry.waiter;
  if (!entry.watches) Adopt(waiter);
  detached_ |= waiter.detach;
  if (plan_) waiter.observer->OnPlanned(*plan_);
  if (status_.progress) waiter.observer->OnProgress(*status_.progress);
  const bool watches = entry.watches;
  waiters_.emplace(++last_waiter_, std::move(entry));
  watchers_ += watches;
  return last_waiter_;
}

bool SharedLoad::joinable() const {
  MutexLock lock(mutex_);
  return !closed_ && context_.Check().ok();
}

void SharedLoad::Close() {
  MutexLock lock(mutex_);
  closed_ = true;
}

void SharedLoad::Leave(WaiterId waiter) { Remove(waiter, /*cancels=*/false); }

void SharedLoad::Cancel(WaiterId waiter) { Remove(waiter, /*cancels=*/true); }

void SharedLoad::Remove(WaiterId waiter, bool cancels) {
  std::shared_ptr<LoadObserver> gone;
  {
    MutexLock lock(mutex_);
    const auto it = waiters_.find(waiter);
    if (it == waiters_.end()) return;
    const bool last = waiters_.size() - watchers_ == 1;
    const bool stops = last && (cancels || !detached_);
    if (!it->second.watches && (stops || stop_.stop_requested())) {
      stop_.request_stop();
      return;
    }
    gone = std::move(it->second.waiter.observer);
    watchers_ -= it->second.watches;
    waiters_.erase(it);
  }
  TellEnd(*gone, NoThrow([&]() -> absl::Status {
    return MakeError(Reason::kLoadCancelled, StrCat(identity_.load, " goes on without this caller"),
                     {{"load", identity_.load}, {"goes_on", "true"}});
  }));
}

void SharedLoad::Stop() {
  MutexLock lock(mutex_);
  stop_.request_stop();
}

void SharedLoad::Planned(const LoadReport& report) {
  MutexLock lock(mutex_);
  plan_ = report;
  for (const auto& [id, entry] : waiters_) NoThrow([&] { entry.waiter.observer->OnPlanned(report); }).IgnoreError();
}

void SharedLoad::Progress(const LoadProgress& progress) {
  MutexLock lock(mutex_);
  status_.progress = progress;
  for (const auto& [id, entry] : waiters_) NoThrow([&] { entry.waiter.observer->OnProgress(progress); }).IgnoreError();
}

void SharedLoad::End(absl::StatusOr<LoadReport> result) noexcept {
  absl::flat_hash_map<WaiterId, Entry> waiters;
  std::shared_ptr<const absl::StatusOr<LoadReport>> kept = end_without_memory_;
  NoThrow([&] { kept = std::make_shared<const absl::StatusOr<LoadReport>>(std::move(result)); }).IgnoreError();
  {
    MutexLock lock(mutex_);
    plan_.reset();
    closed_ = true;
    status_.done = true;
    status_.progress.reset();
    status_.result = kept;
    waiters.swap(waiters_);
    watchers_ = 0;
  }
  for (const auto& [id, entry] : waiters) TellEnd(*entry.waiter.observer, *kept);
}

void LoadTicket::Bind(std::shared_ptr<SharedLoad> load, SharedLoad::WaiterId waiter) {
  Wish wish = Wish::kNone;
  {
    MutexLock lock(mutex_);
    load_ = std::move(load);
    waiter_ = waiter;
    wish = wish_;
  }
  if (wish != Wish::kNone) Give(wish);
}

void LoadTicket::Give(Wish wish) {
  stop_.request_stop();
  std::shared_ptr<SharedLoad> load;
  SharedLoad::WaiterId waiter = 0;
  {
    MutexLock lock(mutex_);
    wish_ = wish = std::max(wish, wish_);
    load = load_;
    waiter = waiter_;
  }
  if (load == nullptr) return;
  wish == Wish::kCancel ? load->Cancel(waiter) : load->Leave(waiter);
}

}  // namespace keyload
