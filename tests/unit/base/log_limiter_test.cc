#include "server/base/log_limiter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

namespace keyload {
namespace {

// The steady clock counts from the start of the machine, so no fixed time is in its past or in its future everywhere.
const LogLimiter::Time kStart = std::chrono::steady_clock::now() - std::chrono::hours(1);
constexpr std::chrono::milliseconds kAlmostASecond(999);

TEST(LogLimiter, AdmitsTwentyLinesInASecondAndTellsHowManyItKeptBack) {
  LogLimiter limiter;
  for (int i = 0; i < 20; ++i) EXPECT_EQ(limiter.Admit(kStart), 0) << i;
  for (int i = 0; i < 5; ++i) EXPECT_EQ(limiter.Admit(kStart + kAlmostASecond), std::nullopt) << i;
  EXPECT_EQ(limiter.Admit(kStart + std::chrono::seconds(1)), 5);
  for (int i = 0; i < 19; ++i) EXPECT_EQ(limiter.Admit(kStart + std::chrono::seconds(1)), 0) << i;
  EXPECT_EQ(limiter.Admit(kStart + std::chrono::seconds(1)), std::nullopt);
}

TEST(LogLimiter, LosesNoCountBetweenThreads) {
  LogLimiter limiter;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&limiter] {
      for (int line = 0; line < 1000; ++line) limiter.Admit(kStart);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(limiter.Admit(kStart + std::chrono::seconds(1)), 4000 - 20);
}

TEST(LogLimiter, WritesTheCountOnTheNextLine) {
  ConfigureLog(LogFormat::kText, LogLevel::kInfo);
  LogLimiter limiter;
  for (int i = 0; i < 20; ++i) limiter.Admit(kStart);
  limiter.Admit(kStart);
  testing::internal::CaptureStderr();
  EXPECT_TRUE(limiter.Log(LogLevel::kWarning, "grpc", {{"message", std::string("m")}}));
  EXPECT_TRUE(limiter.Log(LogLevel::kWarning, "grpc", {{"message", std::string("m")}}));
  const std::string lines = testing::internal::GetCapturedStderr();
  EXPECT_NE(lines.find(" warning grpc message=m suppressed=1\n"), std::string::npos) << lines;
  EXPECT_NE(lines.find(" warning grpc message=m\n"), std::string::npos) << lines;
}

TEST(LogLimiter, KeepsAFloodBack) {
  ConfigureLog(LogFormat::kText, LogLevel::kInfo);
  LogLimiter limiter;
  testing::internal::CaptureStderr();
  int written = 0;
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 2000; ++i) written += limiter.Log(LogLevel::kWarning, "grpc", {}) ? 1 : 0;
  const auto seconds = std::chrono::ceil<std::chrono::seconds>(std::chrono::steady_clock::now() - begin).count();
  const std::string lines = testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), written);
  EXPECT_LE(written, 20 * (seconds + 1));
}

}  // namespace
}  // namespace keyload
