#include "server/io/mount_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

namespace keyload {
namespace {

namespace fs = std::filesystem;

TEST(ParseMountPoints, BlanksAreUnescapedAndOtherLinesLeftOut) {
  EXPECT_THAT(ParseMountPoints("22 27 0:21 / /proc rw,relatime - proc proc rw\n"
                               "36 35 98:0 /a /mnt/two\\040words\\134 rw shared:1 - nfs4 host:/a rw\n"
                               "nonsense\n\n1 2 3 4 relative\n"
                               "40 35 98:0 / /last rw - ext4 x rw"),
              testing::ElementsAre("/proc", "/mnt/two words\\", "/last"));
}

TEST(MountTable, LongestMountPointByWholeNamesIsFound) {
  const MountTable mounts;
  EXPECT_EQ(mounts.Find("/proc"), "/proc");
  EXPECT_EQ(mounts.Find("/proc/self/stat"), "/proc");
  EXPECT_EQ(mounts.Find("/process"), "/");
  EXPECT_EQ(mounts.Find("/"), "/");
}

TEST(MountTable, MountsBehindSymlinksAreToldBeforeTheyAreTouched) {
  const fs::path folder = fs::path(testing::TempDir()) / "mount_table_test";
  fs::remove_all(folder);
  fs::create_directories(folder / "sub");
  fs::create_symlink("/proc/self", folder / "sub" / "absolute");
  fs::create_symlink("../sub/absolute", folder / "sub" / "relative");
  fs::create_symlink("loop", folder / "loop");
  const MountTable mounts;
  std::vector<std::string> entered;
  const auto enter = [&](const std::string& mount) { entered.push_back(mount); };
  mounts.Follow((folder / "sub" / "." / "relative" / "stat").string(), enter);
  ASSERT_FALSE(entered.empty());
  EXPECT_EQ(entered.back(), "/proc");
  mounts.Follow((folder / "loop").string(), enter);
  mounts.Follow("/not/there/at/all", enter);
  fs::remove_all(folder);
}

}  // namespace
}  // namespace keyload
