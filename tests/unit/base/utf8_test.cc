#include "server/base/utf8.h"

#include <gtest/gtest.h>

namespace keyload {
namespace {

TEST(IsUtf8, SequencesOfEveryLengthAreUtf8) {
  EXPECT_TRUE(IsUtf8(""));
  EXPECT_TRUE(IsUtf8("a\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\xf4\x8f\xbf\xbf"));
}

TEST(IsUtf8, BrokenSequencesAreNot) {
  for (const char* text : {"\xff", "\x80", "a\xc3", "\xc0\xaf", "\xed\xa0\x80", "\xe2\x82", "\xf5\x80\x80\x80"}) {
    EXPECT_FALSE(IsUtf8(text)) << testing::PrintToString(text);
  }
}

}  // namespace
}  // namespace keyload
