#include "client/cli/exit_code.h"

#include "gtest/gtest.h"
#include "keyload/client.h"

namespace keyload::cli {
namespace {

absl::Status WithReason(absl::StatusCode code, const std::string& reason) {
  return WithErrorInfo(absl::Status(code, "m"), {.reason = reason, .domain = "keyload", .metadata = {}});
}

ExitCode CodeOf(v1::LoadReport::Outcome outcome, absl::StatusCode error = absl::StatusCode::kOk) {
  v1::LoadReport report;
  report.set_outcome(outcome);
  if (error != absl::StatusCode::kOk) report.mutable_error()->set_code(static_cast<int>(error));
  return ExitCodeFor(report);
}

TEST(ExitCode, ReportsThatAnswerTheQuestionAreDone) {
  EXPECT_EQ(CodeOf(v1::LoadReport::OUTCOME_PLANNED), 0);
  EXPECT_EQ(CodeOf(v1::LoadReport::OUTCOME_COMPLETE), 0);
  EXPECT_EQ(CodeOf(v1::LoadReport::OUTCOME_INCOMPLETE), 0);
}

TEST(ExitCode, RejectedIsOne) { EXPECT_EQ(CodeOf(v1::LoadReport::OUTCOME_REJECTED), 1); }
TEST(ExitCode, CancelledIsFive) { EXPECT_EQ(CodeOf(v1::LoadReport::OUTCOME_CANCELLED), 5); }

TEST(ExitCode, AFailedReportGoesByItsError) {
  EXPECT_EQ(CodeOf(v1::LoadReport::OUTCOME_FAILED, absl::StatusCode::kPermissionDenied), 4);
  EXPECT_EQ(CodeOf(v1::LoadReport::OUTCOME_FAILED, absl::StatusCode::kDeadlineExceeded), 5);
  EXPECT_EQ(CodeOf(v1::LoadReport::OUTCOME_FAILED, absl::StatusCode::kUnavailable), 6);
  EXPECT_EQ(CodeOf(v1::LoadReport::OUTCOME_FAILED, absl::StatusCode::kDataLoss), 6);
  EXPECT_EQ(CodeOf(v1::LoadReport::OUTCOME_FAILED), 6);
}

TEST(ExitCode, UnavailableWithoutAReasonIsNoServer) { EXPECT_EQ(ExitCodeFor(absl::UnavailableError("m")), 3); }

TEST(ExitCode, UnavailableWithAReasonIsAFailure) {
  EXPECT_EQ(ExitCodeFor(WithReason(absl::StatusCode::kUnavailable, "IO_ERROR")), 6);
}

TEST(ExitCode, RefusalsAreFour) {
  EXPECT_EQ(ExitCodeFor(WithReason(absl::StatusCode::kPermissionDenied, "PATH_NOT_ALLOWED")), 4);
  EXPECT_EQ(ExitCodeFor(absl::UnauthenticatedError("m")), 4);
}

TEST(ExitCode, CancelledAndTimedOutAreFive) {
  EXPECT_EQ(ExitCodeFor(absl::CancelledError("m")), 5);
  EXPECT_EQ(ExitCodeFor(absl::DeadlineExceededError("m")), 5);
}

TEST(ExitCode, OnlyOurOwnUsageErrorIsTwo) {
  EXPECT_EQ(ExitCodeFor(UsageError("m")), 2);
  EXPECT_EQ(ExitCodeFor(WithReason(absl::StatusCode::kInvalidArgument, "BAD_REQUEST")), 6);
}

TEST(ExitCode, AnythingElseIsSix) {
  EXPECT_EQ(ExitCodeFor(WithReason(absl::StatusCode::kUnimplemented, "FIELD_NOT_SUPPORTED")), 6);
  EXPECT_EQ(ExitCodeFor(absl::NotFoundError("m")), 6);
}

}  // namespace
}  // namespace keyload::cli
