#include "server/base/log.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace keyload {
namespace {

std::string Logged(LogFormat format, LogLevel threshold, LogLevel level) {
  ConfigureLog(format, threshold);
  testing::internal::CaptureStderr();
  Log(level, "load", {{"model", std::string("a b")}, {"bytes", uint64_t{12}}, {"ok", true}});
  return testing::internal::GetCapturedStderr();
}

TEST(Log, JsonLinesParseAndKeepTypes) {
  const auto line = nlohmann::json::parse(Logged(LogFormat::kJson, LogLevel::kInfo, LogLevel::kWarning));
  EXPECT_EQ(line["event"], "load");
  EXPECT_EQ(line["level"], "warning");
  EXPECT_EQ(line["model"], "a b");
  EXPECT_EQ(line["bytes"], 12);
  EXPECT_EQ(line["ok"], true);
}

TEST(Log, TextQuotesWhatWouldBreakTheLine) {
  const std::string line = Logged(LogFormat::kText, LogLevel::kInfo, LogLevel::kInfo);
  EXPECT_NE(line.find(" info load model=\"a b\" bytes=12 ok=true\n"), std::string::npos) << line;
}

TEST(Log, LinesBelowTheLevelAreDropped) { EXPECT_EQ(Logged(LogFormat::kText, LogLevel::kError, LogLevel::kInfo), ""); }

TEST(JsonString, ReplacesWhatIsNotUtf8) {
  EXPECT_EQ(JsonString("a\"\n"), "\"a\\\"\\n\"");
  EXPECT_EQ(JsonString("\xff"), "\"\xef\xbf\xbd\"");
}

}  // namespace
}  // namespace keyload
