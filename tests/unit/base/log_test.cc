#include "server/base/log.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "server/base/error.h"

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

std::string Audited(LogFormat format, const AuditEntry& entry, const Caller& caller) {
  ConfigureLog(format, LogLevel::kError);
  testing::internal::CaptureStderr();
  Audit(entry, caller);
  return testing::internal::GetCapturedStderr();
}

TEST(Log, NamesTheTraceOfTheCaller) {
  ConfigureLog(LogFormat::kText, LogLevel::kInfo);
  const Caller caller = {.name = "", .peer = "unix:", .traceparent = "00-1-2-03"};
  testing::internal::CaptureStderr();
  Log(LogLevel::kInfo, "load", {{"model", std::string("m")}}, &caller);
  Log(LogLevel::kInfo, "load", {{"model", std::string("m")}}, nullptr);
  const std::string lines = testing::internal::GetCapturedStderr();
  EXPECT_NE(lines.find(" info load model=m traceparent=00-1-2-03\n"), std::string::npos) << lines;
  EXPECT_NE(lines.find(" info load model=m\n"), std::string::npos) << lines;
}

TEST(Audit, SaysWhatIsKnownAtEveryLevelOfTheLog) {
  const std::string done =
      Audited(LogFormat::kText, {.action = "evict", .model = "m"}, {.name = "token:ci", .peer = "unix:"});
  EXPECT_NE(done.find(" info audit action=evict model=m caller=token:ci peer=unix: outcome=OK\n"), std::string::npos)
      << done;
  const std::string failed = Audited(LogFormat::kText,
                                     {.action = "load",
                                      .model = "m",
                                      .load = "load-000001",
                                      .outcome = "FAILED",
                                      .status = MakeError(Reason::kIoError, "no disk")},
                                     {.peer = "unix:", .traceparent = "00-1-2-03"});
  EXPECT_NE(failed.find(" info audit action=load model=m load=load-000001 peer=unix: outcome=FAILED code=UNAVAILABLE "
                        "reason=IO_ERROR traceparent=00-1-2-03\n"),
            std::string::npos)
      << failed;
}

TEST(Audit, AnErrorHasNoOutcomeUnlessItIsSaid) {
  const std::string refused =
      Audited(LogFormat::kText, {.action = "cancel", .status = absl::CancelledError("gone")}, {.peer = "unix:"});
  EXPECT_NE(refused.find(" info audit action=cancel peer=unix: code=CANCELLED\n"), std::string::npos) << refused;
}

TEST(Audit, WhatCallersWriteBreaksNoLineAndIsCut) {
  const std::string evil =
      "a\n2026-01-01T00:00:00.000Z info audit action=load\r\x1b[2J \"=\xff" + std::string(5000, 'x');
  for (const LogFormat format : {LogFormat::kText, LogFormat::kJson}) {
    const std::string line = Audited(format, {.action = "unload", .model = evil}, {.peer = evil});
    EXPECT_EQ(line.find_first_of("\n\r\x1b"), line.size() - 1) << line;
    EXPECT_EQ(line.find('\xff'), std::string::npos) << line;
    EXPECT_LT(line.size(), 1000);
  }
  const auto json =
      nlohmann::json::parse(Audited(LogFormat::kJson, {.action = "unload", .model = evil}, {.peer = "unix:"}));
  EXPECT_EQ(json["event"], "audit");
  const std::string model = json["model"];
  EXPECT_EQ(model.substr(0, 3), "a\n2");
  EXPECT_EQ(model.substr(model.size() - 4), "x...");
}

TEST(Audit, WhatATerminalWouldObeyIsEscaped) {
  const std::string evil = "a\x7f\xc2\x9b\xe2\x80\xae\xe2\x80\xa8";  // DEL, CSI, right-to-left, line separator
  for (const LogFormat format : {LogFormat::kText, LogFormat::kJson}) {
    const std::string line = Audited(format, {.action = "unload", .model = evil}, {.peer = "unix:"});
    EXPECT_NE(line.find("a\\u007f\\u009b\\u202e\\u2028\""), std::string::npos) << line;
  }
}

TEST(JsonString, IsAsciiAndReplacesWhatIsNotUtf8) {
  EXPECT_EQ(JsonString("a\"\n"), "\"a\\\"\\n\"");
  EXPECT_EQ(JsonString("\xff"), "\"\\ufffd\"");
}

}  // namespace
}  // namespace keyload
