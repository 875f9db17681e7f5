#pragma once

#include <algorithm>
#include <cstddef>
#include <deque>

#include "absl/time/time.h"

namespace keyload {

// How long the last tasks took, to say when there may be room for more. Not thread-safe.
class RecentDurations {
 public:
  static constexpr size_t kKept = 32;
  static constexpr absl::Duration kLeastDelay = absl::Seconds(1);
  static constexpr absl::Duration kMostDelay = absl::Minutes(1);

  void Add(absl::Duration duration) {
    last_.push_back(duration);
    sum_ += duration;
    if (last_.size() <= kKept) return;
    sum_ -= last_.front();
    last_.pop_front();
  }

  // After what time `waiting` tasks will have begun on `threads` threads (at least 1), if they take as long as the last
  // ones did; in whole seconds and bounded. The least while nothing is known.
  absl::Duration TimeFor(size_t waiting, size_t threads) const {
    if (last_.empty()) return kLeastDelay;
    const absl::Duration estimate = sum_ * (static_cast<double>(waiting) / static_cast<double>(last_.size() * threads));
    return std::clamp(absl::Ceil(estimate, absl::Seconds(1)), kLeastDelay, kMostDelay);
  }

 private:
  std::deque<absl::Duration> last_;
  absl::Duration sum_;
};

}  // namespace keyload
