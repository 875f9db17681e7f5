#include "server/device/idle_memory.h"

#include <gtest/gtest.h>

#include <cstring>

namespace keyload {
namespace {

constexpr uint64_t kKiB = 1024;

// `bytes`, all of them `mark`. The sizes in these tests are too small for huge pages, whether there are any or not.
SegmentMapping Marked(uint64_t bytes, int mark) {
  absl::StatusOr<SegmentMapping> mapping = SegmentMapping::Memfd(bytes);
  EXPECT_TRUE(mapping.ok()) << mapping.status();
  std::memset(mapping->address(), mark, mapping->bytes());
  return *std::move(mapping);
}

int FirstByte(const SegmentMapping& mapping) { return std::to_integer<int>(*mapping.address()); }

TEST(IdleMemoryTest, TakesTheSmallestThatIsLargeEnoughAndCutsItToSize) {
  IdleMemory idle;
  idle.Add(Marked(500 * kKiB + 1, 5));
  idle.Add(Marked(300 * kKiB + 1, 3));
  idle.Add(Marked(400 * kKiB + 1, 4));
  const auto taken = idle.Take(300 * kKiB + 5'000);
  ASSERT_TRUE(taken.has_value());
  EXPECT_EQ(FirstByte(*taken), 4);
  EXPECT_EQ(taken->bytes(), 300 * kKiB + 8'192);
}

TEST(IdleMemoryTest, ExtendsTheLargestWhereNoneIsLargeEnough) {
  IdleMemory idle;
  idle.Add(Marked(600'000, 1));
  idle.Add(Marked(700'000, 2));
  const auto taken = idle.Take(1'000'000);
  ASSERT_TRUE(taken.has_value());
  EXPECT_EQ(FirstByte(*taken), 2);
  EXPECT_GE(taken->bytes(), 1'000'000u);
  EXPECT_EQ(std::to_integer<int>(taken->address()[999'999]), 0);
  EXPECT_GT(idle.bytes(), 0u);
}

TEST(IdleMemoryTest, LeavesWhatIsMoreThanTwiceOrLessThanHalfAsLarge) {
  IdleMemory idle;
  idle.Add(Marked(700 * kKiB, 1));
  EXPECT_FALSE(idle.Take(300 * kKiB).has_value());
  EXPECT_FALSE(idle.Take(1500 * kKiB).has_value());
  EXPECT_EQ(idle.bytes(), 700 * kKiB);
}

TEST(IdleMemoryTest, GivesTheOldestBackFirst) {
  IdleMemory idle;
  for (int mark = 1; mark <= 3; ++mark) idle.Add(Marked(100 * kKiB, mark));
  EXPECT_EQ(idle.bytes(), 300 * kKiB);
  for (int mark = 1; mark <= 3; ++mark) EXPECT_EQ(FirstByte(idle.TakeOldest()), mark);
  EXPECT_TRUE(idle.empty());
  EXPECT_EQ(idle.bytes(), 0u);
  EXPECT_FALSE(idle.Take(100 * kKiB).has_value());
}

}  // namespace
}  // namespace keyload
