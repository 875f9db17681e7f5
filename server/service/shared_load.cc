#include "server/service/shared_load.h"

#include <algorithm>
#include <utility>

#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {

SharedLoad::SharedLoad(LoadIdentity identity)
    : identity_(std::move(identity)),
      deadline_(std::make_shared<SharedDeadline>(absl::InfinitePast())),
      context_{.stop = stop_.get_token(), .shared_deadline = deadline_},
      status_{.identity = identity_} {}

LoadStatus SharedLoad::status() const {
  MutexLock lock(mutex_);
  return status_;
}

std::optional<SharedLoad::WaiterId> SharedLoad::Add(Waiter waiter, bool joins) {
  std::shared_ptr<const absl::StatusOr<LoadReport>> result;
  {
    MutexLock lock(mutex_);
    if (joins && !status_.done && stop_.stop_requested() && !waiter.watches) return std::nullopt;
    waiter.observer->OnAccepted(identity_.load, joins);
    result = status_.result;
    if (result == nullptr) {
      if (!waiter.watches) deadline_->Extend(waiter.detach ? absl::InfiniteFuture() : waiter.deadline);
      detached_ |= waiter.detach;
      if (plan_) waiter.observer->OnPlanned(*plan_);
      if (status_.progress) waiter.observer->OnProgress(*status_.progress);
      waiters_.emplace(++last_waiter_, std::move(waiter));
      return last_waiter_;
    }
  }
  waiter.observer->OnEnd(*result);
  return 0;
}

void SharedLoad::Leave(WaiterId waiter) { Remove(waiter, /*cancels=*/false); }

void SharedLoad::Cancel(WaiterId waiter) { Remove(waiter, /*cancels=*/true); }

void SharedLoad::Remove(WaiterId waiter, bool cancels) {
  std::shared_ptr<LoadObserver> gone;
  {
    MutexLock lock(mutex_);
    const auto it = waiters_.find(waiter);
    if (it == waiters_.end()) return;
    const bool last =
        std::count_if(waiters_.begin(), waiters_.end(), [](const auto& entry) { return !entry.second.watches; }) == 1;
    if (!it->second.watches && last && (cancels || !detached_)) {
      stop_.request_stop();
      return;
    }
    gone = std::move(it->second.observer);
    waiters_.erase(it);
  }
  gone->OnEnd(MakeError(Reason::kLoadCancelled, StrCat(identity_.load, " goes on without this caller"),
                        {{"load", identity_.load}}));
}

void SharedLoad::Stop() {
  MutexLock lock(mutex_);
  stop_.request_stop();
}

void SharedLoad::Planned(const LoadReport& report) {
  MutexLock lock(mutex_);
  plan_ = report;
  for (const auto& [id, waiter] : waiters_) waiter.observer->OnPlanned(report);
}

void SharedLoad::Progress(const LoadProgress& progress) {
  MutexLock lock(mutex_);
  status_.progress = progress;
  for (const auto& [id, waiter] : waiters_) waiter.observer->OnProgress(progress);
}

void SharedLoad::End(absl::StatusOr<LoadReport> result) {
  absl::flat_hash_map<WaiterId, Waiter> waiters;
  const auto kept = std::make_shared<const absl::StatusOr<LoadReport>>(std::move(result));
  {
    MutexLock lock(mutex_);
    plan_.reset();
    status_.done = true;
    status_.progress.reset();
    status_.result = kept;
    waiters.swap(waiters_);
  }
  for (const auto& [id, waiter] : waiters) waiter.observer->OnEnd(*kept);
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
  std::shared_ptr<SharedLoad> load;
  SharedLoad::WaiterId waiter = 0;
  {
    MutexLock lock(mutex_);
    wish_ = wish;
    load = load_;
    waiter = waiter_;
  }
  if (load == nullptr) return;
  wish == Wish::kCancel ? load->Cancel(waiter) : load->Leave(waiter);
}

}  // namespace keyload
