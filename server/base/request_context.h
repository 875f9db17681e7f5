#pragma once

#include <stop_token>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace keyload {

// Passed by const reference to every call that can take long; such calls check it at least once per I/O block.
struct RequestContext {
  std::stop_token stop;                          // the caller went away or cancelled
  absl::Time deadline = absl::InfiniteFuture();  // the caller's, by the wall clock

  // OK, or LOAD_CANCELLED, or DEADLINE_EXCEEDED. Thread-safe, never blocks.
  absl::Status Check() const;
};

}  // namespace keyload
