#include "server/report/load_report.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "server/base/error.h"
#include "server/base/log.h"

namespace keyload {
namespace {

TEST(LogLoad, WritesOneLineWithTheReportsFigures) {
  LoadReport report = {.load = "load-1", .model = "m", .outcome = Outcome::kIncomplete};
  report.keys.missing = 6;
  report.bytes.mapped = 90;
  report.phases = {{.name = "transfer", .start = {}, .duration = absl::Milliseconds(250)}};
  report.total = absl::Milliseconds(500);
  ConfigureLog(LogFormat::kJson, LogLevel::kInfo);
  testing::internal::CaptureStderr();
  LogLoad(report);
  const auto line = nlohmann::json::parse(testing::internal::GetCapturedStderr());
  EXPECT_EQ(line["outcome"], "INCOMPLETE");
  EXPECT_EQ(line["missing"], 6);
  EXPECT_EQ(line["mapped_bytes"], 90);
  EXPECT_EQ(line["transfer_seconds"], 0.25);
  EXPECT_EQ(line["total_seconds"], 0.5);
  EXPECT_FALSE(line.contains("reason"));
}

TEST(LogLoad, NamesTheReasonOfAFailure) {
  LoadReport report = {.outcome = Outcome::kFailed, .error = MakeError(Reason::kDeviceOutOfMemory, "cuda:0 is full")};
  ConfigureLog(LogFormat::kJson, LogLevel::kInfo);
  testing::internal::CaptureStderr();
  LogLoad(report);
  const auto line = nlohmann::json::parse(testing::internal::GetCapturedStderr());
  EXPECT_EQ(line["level"], "warning");
  EXPECT_EQ(line["reason"], "DEVICE_OUT_OF_MEMORY");
}

}  // namespace
}  // namespace keyload
