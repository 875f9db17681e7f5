#pragma once

#include <chrono>
#include <cstdint>

#include "server/base/mutex.h"

namespace keyload {

// How fast a client takes what it is sent, in bytes by time: a client that takes one message a minute holds the model
// that it reads as surely as one that takes none. Only time counts in which the client is waited for. Thread-safe.
class ReadRate {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr uint64_t kMinBytesPerMinute = 4 << 20;

  void Sent(Clock::time_point now, uint64_t bytes) {
    MutexLock lock(mutex_);
    sending_ = true;
    since_ = now;
    bytes_ = bytes;
  }
  // The client has taken what was sent last.
  void Taken(Clock::time_point now) {
    MutexLock lock(mutex_);
    sending_ = false;
    waited_ += now - since_;
    taken_ += bytes_;
  }
  // Whether the client was waited for `limit` in all and has taken less than the rate meanwhile. If it was waited for
  // so long and took enough, the count begins anew. True only once.
  bool IsTooSlow(Clock::time_point now, Clock::duration limit) {
    MutexLock lock(mutex_);
    const Clock::duration waited = waited_ + (sending_ && now > since_ ? now - since_ : Clock::duration::zero());
    if (told_ || waited < limit) return false;
    const double minutes = std::chrono::duration<double, std::ratio<60>>(waited).count();
    told_ = static_cast<double>(taken_) < minutes * static_cast<double>(kMinBytesPerMinute);
    waited_ = Clock::duration::zero();
    taken_ = 0;
    if (sending_) since_ = now;
    return told_;
  }

 private:
  Mutex mutex_;
  bool sending_ ABSL_GUARDED_BY(mutex_) = false;
  Clock::time_point since_ ABSL_GUARDED_BY(mutex_);
  uint64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // of what is being sent
  Clock::duration waited_ ABSL_GUARDED_BY(mutex_) = Clock::duration::zero();
  uint64_t taken_ ABSL_GUARDED_BY(mutex_) = 0;
  bool told_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace keyload
