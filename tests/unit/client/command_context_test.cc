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

}  // namespace
}  // namespace keyload::cli
