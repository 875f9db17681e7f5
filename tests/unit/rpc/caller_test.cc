#include "server/rpc/caller.h"

#include <gtest/gtest.h>

namespace keyload {
namespace {

constexpr char kTrace[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

std::string With(size_t at, char c) {
  std::string text = kTrace;
  text[at] = c;
  return text;
}

TEST(ParseTraceparent, TakesWhatTheStandardCallsValid) {
  EXPECT_EQ(ParseTraceparent(kTrace), kTrace);
  for (const char version : {'1', 'e'}) EXPECT_EQ(ParseTraceparent(With(1, version)), With(1, version));
  EXPECT_EQ(ParseTraceparent(With(54, 'f')), With(54, 'f')) << "flags that are not known yet";
}

TEST(ParseTraceparent, OfALaterVersionTheKnownPartCounts) {
  const std::string later = With(0, 'c');
  EXPECT_EQ(ParseTraceparent(later + "-what-comes"), later);
  EXPECT_EQ(ParseTraceparent(later + "-" + std::string(100'000, 'x')), later);
  EXPECT_EQ(ParseTraceparent(later + "what-comes"), "");
}

TEST(ParseTraceparent, RefusesEverythingElse) {
  const std::string text = kTrace;
  for (size_t size = 0; size < text.size(); ++size) EXPECT_EQ(ParseTraceparent(text.substr(0, size)), "") << size;
  for (size_t at = 0; at < text.size(); ++at) {
    for (const char c : {'\n', '\0', 'G', 'A', '_', '\xff'}) EXPECT_EQ(ParseTraceparent(With(at, c)), "") << at << c;
    if (text[at] == '-') {
      EXPECT_EQ(ParseTraceparent(With(at, '0')), "") << at;
    }
  }
  EXPECT_EQ(ParseTraceparent(text + "-more"), "") << "version 00 has no more";
  EXPECT_EQ(ParseTraceparent("ff" + text.substr(2)), "");
  EXPECT_EQ(ParseTraceparent("00-00000000000000000000000000000000-00f067aa0ba902b7-01"), "");
  EXPECT_EQ(ParseTraceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"), "");
  EXPECT_EQ(ParseTraceparent(" " + text), "");
}

}  // namespace
}  // namespace keyload
