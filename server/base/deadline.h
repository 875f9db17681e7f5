#pragma once

#include <chrono>
#include <compare>

#include "absl/time/time.h"

namespace keyload {

// When a caller stops waiting, by the steady clock: setting the machine's time neither ends nor prolongs anything. A
// deadline that comes from outside as a time of day is turned into one of these where it enters. A value.
class Deadline {
 public:
  using Clock = std::chrono::steady_clock;

  Deadline() = default;  // never
  explicit Deadline(Clock::time_point time) : time_(time) {}
  static Deadline Never() { return Deadline(); }
  // `wait` after `start`; an infinite wait, or one that the clock cannot count, is never.
  static Deadline After(absl::Duration wait, Clock::time_point start = Clock::now());

  bool never() const { return time_ == Clock::time_point::max(); }
  bool passed() const { return !never() && Clock::now() >= time_; }
  // The time until then: not below 0, and infinite for never.
  absl::Duration left() const;
  Clock::time_point time() const { return time_; }

  auto operator<=>(const Deadline&) const = default;

 private:
  Clock::time_point time_ = Clock::time_point::max();
};

}  // namespace keyload
