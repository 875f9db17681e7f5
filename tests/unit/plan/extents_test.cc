#include "server/plan/extents.h"

#include <gtest/gtest.h>

namespace keyload {
namespace {

constexpr uint32_t kMemory = 0;
constexpr uint32_t kFile = 1;
const std::vector<PlannedSegment> kSegments = {{.kind = SegmentKind::kMemory}, {.kind = SegmentKind::kFile}};

PlannedTensor At(uint64_t offset, uint64_t bytes, uint32_t segment = kMemory, uint32_t shard = 0) {
  return {.segment = segment, .file_offset = offset, .stored_bytes = bytes, .shard = shard};
}

TEST(CoalesceExtents, JoinsWhatTouches) {
  const auto extents = CoalesceExtents({At(0, 10), At(10, 20), At(30, 1)}, kSegments, 0);
  ASSERT_EQ(extents.size(), 1);
  EXPECT_EQ(extents[0].offset, 0);
  EXPECT_EQ(extents[0].length, 31);
  EXPECT_EQ(extents[0].tensor_count, 3);
}

TEST(CoalesceExtents, KeepsShardsAndEnginesApart) {
  const auto extents = CoalesceExtents({At(0, 10), At(10, 10, kMemory, 1), At(20, 10, kFile, 1)}, kSegments, 1000);
  EXPECT_EQ(extents.size(), 3);
}

TEST(CoalesceExtents, BridgesTheSmallestGapsWithinTheBudget) {
  const std::vector<PlannedTensor> tensors = {At(0, 10), At(15, 10), At(45, 10), At(58, 10)};  // gaps 5, 20, 3
  EXPECT_EQ(CoalesceExtents(tensors, kSegments, 0).size(), 4);
  EXPECT_EQ(CoalesceExtents(tensors, kSegments, 3).size(), 3);
  EXPECT_EQ(CoalesceExtents(tensors, kSegments, 8).size(), 2);
  EXPECT_EQ(CoalesceExtents(tensors, kSegments, 27).size(), 2);
  EXPECT_EQ(CoalesceExtents(tensors, kSegments, 28).size(), 1);
}

TEST(CoalesceExtents, EqualGapsAreBridgedAllOrNone) {
  const std::vector<PlannedTensor> tensors = {At(0, 1), At(5, 1), At(10, 1)};  // two gaps of 4
  EXPECT_EQ(CoalesceExtents(tensors, kSegments, 7).size(), 3);
  EXPECT_EQ(CoalesceExtents(tensors, kSegments, 8).size(), 1);
}

TEST(CoalesceExtents, NeverBridgesMappedTensors) {
  EXPECT_EQ(CoalesceExtents({At(0, 10, kFile), At(11, 10, kFile)}, kSegments, 1000).size(), 2);
}

TEST(CoalesceExtents, EmptyTensorsCostNothing) {
  const auto extents = CoalesceExtents({At(0, 10), At(10, 0), At(10, 10)}, kSegments, 0);
  ASSERT_EQ(extents.size(), 1);
  EXPECT_EQ(extents[0].length, 20);
}

}  // namespace
}  // namespace keyload
