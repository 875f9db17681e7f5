#pragma once

#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace keyload {

// In an error's metadata: whole seconds after which the same request may succeed.
inline constexpr std::string_view kRetryDelay = "retry_delay_seconds";

// LOAD_QUEUE_FULL: nothing more is taken; there may be room after `retry_delay`, which is rounded up to whole seconds.
absl::Status TooManyWaiting(absl::Duration retry_delay);
// DRAINING, with the time after which another server, or this one once it is started again, may answer.
absl::Status Draining();

}  // namespace keyload
