#include "tests/mock_client/load_rules.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/mock_client/call_error.h"
#include "tests/mock_client/expectation.h"

namespace keyload::mock {
namespace {

constexpr double kClockTolerance = 1e-3;  // seconds

double Seconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + 1e-9 * duration.nanos();
}

absl::Status Broken(const std::string& rule) {
  return absl::FailedPreconditionError(absl::StrCat("the daemon broke a rule: ", rule));
}

}  // namespace

absl::Status LoadRules::Take(const v1::LoadResponse& response) {
  if (ended_) return Broken("an event after the end of the load");
  switch (response.event_case()) {
    case v1::LoadResponse::kAccepted:
      if (std::exchange(accepted_, true)) return Broken("accepted twice");
      return absl::OkStatus();
    case v1::LoadResponse::kPlanned:
      if (!accepted_ || received_.contains("planned")) return Broken("one plan, after accepted");
      received_["planned"] = ToJson(response.planned());
      return absl::OkStatus();
    case v1::LoadResponse::kProgress:
      return TakeProgress(response.progress());
    case v1::LoadResponse::kReport:
      ended_ = true;
      if (!accepted_) return Broken("a report of a load that was not accepted");
      received_["report"] = ToJson(response.report());
      if (!response.report().has_error()) return CheckReport(response.report());
      received_["report"]["error"] = ErrorJson(response.report().error());
      return CheckReport(response.report());
    case v1::LoadResponse::kError:
      ended_ = true;
      received_["error"] = ErrorJson(response.error());
      if (response.error().message().size() > 4096) return Broken("a message over 4 KiB");
      return absl::OkStatus();
    case v1::LoadResponse::EVENT_NOT_SET:
      return Broken("a response without an event");
  }
  return Broken("an event of an unknown kind");
}

absl::Status LoadRules::TakeProgress(const v1::LoadProgress& progress) {
  if (!accepted_) return Broken("progress before accepted");
  if (progress.bytes_done() > progress.bytes_total()) return Broken("more bytes done than there are");
  if (progress.phase() == phase_ && progress.bytes_done() < bytes_done_) return Broken("progress went back");
  phase_ = progress.phase();
  bytes_done_ = progress.bytes_done();
  return absl::OkStatus();
}

absl::Status CheckReport(const v1::LoadReport& report) {
  const double total = Seconds(report.total_duration());
  double sum = 0;
  double end = 0;
  for (const v1::Phase& phase : report.phases()) {
    if (Seconds(phase.start()) + kClockTolerance < end)
      return Broken(absl::StrCat("phase ", phase.name(), " overlaps"));
    end = Seconds(phase.start()) + Seconds(phase.duration());
    sum += Seconds(phase.duration());
  }
  if (std::abs(sum - total) > std::max(0.01 * total, kClockTolerance)) {
    return Broken(absl::StrCat("phases sum to ", sum, " s of ", total, " s"));
  }
  if (report.outcome() == v1::LoadReport::OUTCOME_UNSPECIFIED) return Broken("a report without an outcome");
  if (static_cast<uint64_t>(report.missing_keys_size()) > report.keys().missing()) {
    return Broken("more missing keys named than counted");
  }
  if (static_cast<uint64_t>(report.unexpected_keys_size()) > report.keys().unexpected()) {
    return Broken("more unexpected keys named than counted");
  }
  return absl::OkStatus();
}

}  // namespace keyload::mock
