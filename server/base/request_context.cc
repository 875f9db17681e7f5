#include "server/base/request_context.h"

#include "absl/time/clock.h"
#include "server/base/error.h"

namespace keyload {

// Saturates: the end of time stays the end of time.
absl::Time SharedDeadline::time() const {
  const int64_t nanos = unix_nanos_;
  return nanos == absl::ToUnixNanos(absl::InfiniteFuture()) ? absl::InfiniteFuture() : absl::FromUnixNanos(nanos);
}

void SharedDeadline::Extend(absl::Time time) {
  const int64_t later = absl::ToUnixNanos(time);
  for (int64_t now = unix_nanos_; now < later && !unix_nanos_.compare_exchange_weak(now, later);) continue;
}

std::string Caller::share() const {
  if (peer.starts_with("unix")) return name + "@unix";
  return name + "@" + peer.substr(0, peer.rfind(':'));  // without the port
}

absl::Status RequestContext::Check() const {
  // First, because a caller that gives up at its deadline cancels too.
  if (const absl::Time time = end(); time != absl::InfiniteFuture() && absl::Now() >= time) {
    return MakeError(Reason::kDeadlineExceeded, "the caller's deadline passed");
  }
  if (stop.stop_requested()) return MakeError(Reason::kLoadCancelled, "cancelled by the caller");
  return absl::OkStatus();
}

}  // namespace keyload
