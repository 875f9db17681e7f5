#pragma once

#include <algorithm>
#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "server/base/mutex.h"

namespace keyload {

// So many of something that lasts, of which one caller (Caller::share) has at most half, so that it keeps no other out.
// Outlives its slots. Thread-safe.
class ShareSlots {
 public:
  explicit ShareSlots(size_t most) : most_(most) {}

  // Held until its destruction.
  class Slot {
   public:
    Slot(Slot&& other) noexcept : slots_(std::exchange(other.slots_, nullptr)), share_(std::move(other.share_)) {}
    Slot& operator=(Slot&&) = delete;
    ~Slot() {
      if (slots_ != nullptr) slots_->Give(share_);
    }

   private:
    friend class ShareSlots;
    Slot(ShareSlots* slots, std::string share) : slots_(slots), share_(std::move(share)) {}
    ShareSlots* slots_;
    std::string share_;
  };
  // Nothing when all slots are taken, or half of them by this caller.
  std::optional<Slot> TryTake(std::string share) {
    MutexLock lock(mutex_);
    if (taken_ == most_) return std::nullopt;
    size_t& of_share = taken_by_[share];
    if (of_share == std::max<size_t>(most_ / 2, 1)) return std::nullopt;
    ++of_share;
    ++taken_;
    return Slot(this, std::move(share));
  }
  size_t most() const { return most_; }

 private:
  void Give(const std::string& share) {
    MutexLock lock(mutex_);
    --taken_;
    if (const auto it = taken_by_.find(share); --it->second == 0) taken_by_.erase(it);
  }

  const size_t most_;
  Mutex mutex_;
  size_t taken_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, size_t> taken_by_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace keyload
