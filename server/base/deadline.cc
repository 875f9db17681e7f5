#include "server/base/deadline.h"

#include <algorithm>

namespace keyload {

Deadline Deadline::After(absl::Duration wait, Clock::time_point start) {
  const auto nanoseconds = absl::ToChronoNanoseconds(wait);  // as near as they can count it
  const bool countable = nanoseconds < Clock::time_point::max() - std::max(start, Clock::time_point());
  return countable ? Deadline(start + nanoseconds) : Never();
}

absl::Duration Deadline::left() const {
  if (never()) return absl::InfiniteDuration();
  const Clock::time_point now = Clock::now();
  return now < time_ ? absl::FromChrono(time_ - now) : absl::ZeroDuration();
}

}  // namespace keyload
