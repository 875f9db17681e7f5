#include "server/access/file_watch.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/support/checkpoint_builder.h"

namespace keyload {
namespace {

TEST(FileWatch, SeesAChangeOnceWhenItHasSettled) {
  TempDir dir;
  WriteFile(dir.File("a"), "1");
  WriteFile(dir.File("b"), "1");
  FileWatch watch({dir.File("a"), dir.File("b")});
  EXPECT_FALSE(watch.Changed());
  WriteFile(dir.File("a"), "22");
  EXPECT_FALSE(watch.Changed()) << "the other file may be about to change";
  WriteFile(dir.File("b"), "22");
  EXPECT_FALSE(watch.Changed());
  EXPECT_TRUE(watch.Changed());
  EXPECT_FALSE(watch.Changed());
}

TEST(FileWatch, SeesAnotherFileUnderTheName) {
  TempDir dir;
  WriteFile(dir.File("v1"), "1");
  WriteFile(dir.File("v2"), "2");
  std::filesystem::create_symlink("v1", dir.File("now"));
  FileWatch watch({dir.File("now")});
  std::filesystem::create_symlink("v2", dir.File("next"));
  std::filesystem::rename(dir.File("next"), dir.File("now"));
  EXPECT_FALSE(watch.Changed());
  EXPECT_TRUE(watch.Changed());
}

TEST(FileWatch, SeesAFileGoAndComeBack) {
  TempDir dir;
  WriteFile(dir.File("a"), "1");
  FileWatch watch({dir.File("a")});
  std::filesystem::remove(dir.File("a"));
  EXPECT_FALSE(watch.Changed());
  EXPECT_TRUE(watch.Changed());
  WriteFile(dir.File("a"), "1");
  EXPECT_FALSE(watch.Changed());
  EXPECT_TRUE(watch.Changed());
}

}  // namespace
}  // namespace keyload
