#include "server/base/request_context.h"

#include "server/base/error.h"
#include "server/base/peer_host.h"

namespace keyload {

void SharedDeadline::Extend(Deadline deadline) {
  const auto later = deadline.time();
  for (auto now = time_.load(); now < later && !time_.compare_exchange_weak(now, later);) continue;
}

std::string Caller::share() const { return name + "@" + HostOfPeer(peer); }

absl::Status RequestContext::Check() const {
  // First, because a caller that gives up at its deadline cancels too.
  if (end().passed()) return MakeError(Reason::kDeadlineExceeded, "the caller's deadline passed");
  if (stop.stop_requested()) return MakeError(Reason::kLoadCancelled, "cancelled by the caller");
  return absl::OkStatus();
}

}  // namespace keyload
