#include "client/cli/exit_code.h"

#include "keyload/client.h"

namespace keyload::cli {
namespace {

constexpr char kUsageReason[] = "BAD_USAGE";

// What a failure's code says by itself.
ExitCode ExitCodeOfFailure(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return kExitRefused;
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kDeadlineExceeded:
      return kExitCancelled;
    default:
      return kExitFailed;
  }
}

}  // namespace

absl::Status UsageError(const std::string& message) {
  return WithErrorInfo(absl::InvalidArgumentError(message),
                       ErrorInfo{.reason = kUsageReason, .domain = "keyload", .metadata = {}});
}

ExitCode ExitCodeFor(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitDone;
    case absl::StatusCode::kInvalidArgument:
      return GetErrorInfo(status).reason == kUsageReason ? kExitUsage : kExitFailed;
    case absl::StatusCode::kUnavailable:
      return GetErrorInfo(status).reason.empty() ? kExitUnreachable : kExitFailed;
    default:
      return ExitCodeOfFailure(status.code());
  }
}

ExitCode ExitCodeFor(const v1::LoadReport& report) {
  switch (report.outcome()) {
    case v1::LoadReport::OUTCOME_PLANNED:
    case v1::LoadReport::OUTCOME_COMPLETE:
    case v1::LoadReport::OUTCOME_INCOMPLETE:
      return kExitDone;
    case v1::LoadReport::OUTCOME_REJECTED:
      return kExitNotComplete;
    case v1::LoadReport::OUTCOME_CANCELLED:
      return kExitCancelled;
    default:
      // The code alone decides: a load that failed was reached, so a missing reason does not mean "no server".
      return ExitCodeOfFailure(static_cast<absl::StatusCode>(report.error().code()));
  }
}

}  // namespace keyload::cli
