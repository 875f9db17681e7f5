#include "server/io/byte_range.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <utility>

namespace keyload {
namespace {

using Pairs = std::vector<std::pair<uint64_t, uint64_t>>;

Pairs Join(const std::vector<ByteRange>& ranges, uint64_t unit = 1) {
  Pairs joined;
  for (const ByteRange& range : JoinRanges(ranges, unit)) joined.emplace_back(range.offset, range.length);
  return joined;
}

TEST(JoinRanges, OrdersAndJoinsWhatTouchesOrOverlaps) {
  EXPECT_EQ(Join({{50, 10}, {0, 10}, {10, 5}, {12, 2}, {60, 1}}), (Pairs{{0, 15}, {50, 11}}));
  EXPECT_EQ(Join({{0, 10}, {11, 1}}), (Pairs{{0, 10}, {11, 1}})) << "a byte between them";
  EXPECT_EQ(Join({{5, 100}, {6, 1}}), (Pairs{{5, 100}})) << "one inside of the other";
}

TEST(JoinRanges, LeavesOutEmptyOnes) {
  EXPECT_EQ(Join({}), Pairs());
  EXPECT_EQ(Join({{7, 0}, {3, 1}, {9, 0}}), (Pairs{{3, 1}}));
}

TEST(JoinRanges, JoinsWhatSharesOrTouchesAUnit) {
  EXPECT_EQ(Join({{0, 10}, {20, 10}}, 16), (Pairs{{0, 30}}));
  EXPECT_EQ(Join({{0, 10}, {16, 1}}, 16), (Pairs{{0, 17}})) << "neighbouring units";
  EXPECT_EQ(Join({{0, 10}, {32, 1}}, 16), (Pairs{{0, 10}, {32, 1}})) << "a unit between them";
}

TEST(ByteRange, CanBeInFileUpToTheGreatestOffset) {
  constexpr uint64_t most = std::numeric_limits<off_t>::max();
  EXPECT_TRUE(CanBeInFile({most, 0}));
  EXPECT_TRUE(CanBeInFile({1, most - 1}));
  EXPECT_FALSE(CanBeInFile({1, most}));
  EXPECT_FALSE(CanBeInFile({most + 1, 0}));
}

TEST(ByteRange, TotalLength) {
  EXPECT_EQ(TotalLength({}), 0);
  EXPECT_EQ(TotalLength({{100, 3}, {0, 4}}), 7);
}

}  // namespace
}  // namespace keyload
