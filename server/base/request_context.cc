#include "server/base/request_context.h"

#include "absl/time/clock.h"
#include "server/base/error.h"

namespace keyload {

absl::Status RequestContext::Check() const {
  if (stop.stop_requested()) return MakeError(Reason::kLoadCancelled, "cancelled by the caller");
  if (deadline != absl::InfiniteFuture() && absl::Now() >= deadline) {
    return MakeError(Reason::kDeadlineExceeded, "the caller's deadline passed");
  }
  return absl::OkStatus();
}

}  // namespace keyload
