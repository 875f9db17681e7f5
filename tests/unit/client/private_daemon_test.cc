#include "client/cli/private_daemon.h"

#include "client/cli/exit_code.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/client/temporary_folder.h"

namespace keyload::cli {
namespace {

using testing::HasSubstr;

// A program in place of keyloadd.
std::string Script(const TemporaryFolder& folder, const std::string& body) {
  std::string path = folder.Write("keyloadd", "#!/bin/sh\n" + body + "\n");
  std::filesystem::permissions(path, std::filesystem::perms::owner_all);
  return path;
}

TEST(PrivateDaemon, ADaemonThatEndsBeforeItServesIsNoticed) {
  TemporaryFolder folder;
  auto daemon = PrivateDaemon::Start(Script(folder, "exit 1"), {.timeout = absl::Seconds(60)});
  EXPECT_EQ(daemon.status().code(), absl::StatusCode::kInternal);
}

TEST(PrivateDaemon, ADaemonThatNeverServesIsStoppedAtTheTimeout) {
  TemporaryFolder folder;
  auto daemon = PrivateDaemon::Start(Script(folder, "exec tail -f /dev/null"), {.timeout = absl::Milliseconds(50)});
  EXPECT_EQ(daemon.status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(PrivateDaemon, AStopRequestEndsTheWait) {
  TemporaryFolder folder;
  std::stop_source stop;
  stop.request_stop();
  auto daemon = PrivateDaemon::Start(Script(folder, "exec tail -f /dev/null"), {.stop = stop.get_token()});
  EXPECT_EQ(daemon.status().code(), absl::StatusCode::kCancelled);
}

TEST(PrivateDaemon, TheDaemonIsToldItsSocketAndThatEveryPathIsAllowed) {
  TemporaryFolder folder;
  PrivateDaemon::Start(Script(folder, "echo \"$@\" > " + folder.Path("arguments")), {}).status().IgnoreError();
  EXPECT_THAT(folder.Read("arguments"), HasSubstr("/keyload.sock --model-root / --log-level error"));
}

TEST(PrivateDaemon, OfTheSettingsInTheEnvironmentItHasThePlaceOfTemplates) {
  TemporaryFolder folder;
  ::setenv("KEYLOADD_TEMPLATE_DIR", "/templates", 1);
  ::setenv("KEYLOADD_LISTEN", "unix:/elsewhere", 1);
  PrivateDaemon::Start(Script(folder, "env > " + folder.Path("environment")), {}).status().IgnoreError();
  ::unsetenv("KEYLOADD_TEMPLATE_DIR");
  ::unsetenv("KEYLOADD_LISTEN");
  EXPECT_THAT(folder.Read("environment"), HasSubstr("KEYLOADD_TEMPLATE_DIR=/templates\n"));
  EXPECT_THAT(folder.Read("environment"), testing::Not(HasSubstr("KEYLOADD_LISTEN")));
}

TEST(PrivateDaemon, IsFoundOnTheSearchPath) {
  TemporaryFolder folder;
  std::string program = Script(folder, "");
  std::string found = FindDaemon("/no-such-folder:" + std::filesystem::path(program).parent_path().string());
  EXPECT_TRUE(found == program || found.ends_with("/bin/keyloadd")) << found;  // one beside the test comes first
}

TEST(PrivateDaemon, NoProgramIsBadUsage) { EXPECT_EQ(ExitCodeFor(PrivateDaemon::Start("", {}).status()), kExitUsage); }

}  // namespace
}  // namespace keyload::cli
