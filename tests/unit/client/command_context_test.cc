#include "client/cli/command_context.h"

#include "client/cli/exit_code.h"
#include "gtest/gtest.h"

namespace keyload::cli {
namespace {

TEST(ParseTimeout, TakesDurationsAndBareSeconds) {
  EXPECT_EQ(*ParseTimeout("1m30s"), absl::Seconds(90));
  EXPECT_EQ(*ParseTimeout("90"), absl::Seconds(90));
  EXPECT_EQ(*ParseTimeout("0.5"), absl::Milliseconds(500));
  for (const char* text : {"", "soon", "0", "-1", "nan"}) {
    EXPECT_EQ(ExitCodeFor(ParseTimeout(text).status()), kExitUsage) << text;
  }
}

TEST(PrintText, ShowsControlCharactersOfNames) {
  testing::internal::CaptureStdout();
  PrintText("a\x1b[2J\x1b[1;3Hb\r\x7f\xc2\x9b\xc3\xa9\t\x1b[1;32mok\x1b[0m\n");
  EXPECT_EQ(testing::internal::GetCapturedStdout(),
            "a\\x1b[2J\\x1b[1;3Hb\\x0d\\x7f\\xc2\\x9b\xc3\xa9\t\x1b[1;32mok\x1b[0m\n");
}

TEST(Fail, ShowsControlCharactersOfMessages) {
  testing::internal::CaptureStderr();
  Fail({}, absl::InvalidArgumentError("\x1b[2Jgone"));
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "keyload: INVALID_ARGUMENT: \\x1b[2Jgone\n");
}

}  // namespace
}  // namespace keyload::cli
