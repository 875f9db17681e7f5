#include "server/plan/extents.h"

#include <gtest/gtest.h>

#include <random>

namespace keyload {
namespace {

constexpr uint32_t kMemory = 0;
constexpr uint32_t kFile = 1;
const std::vector<PlannedSegment> kSegments = {{.kind = SegmentKind::kMemory}, {.kind = SegmentKind::kFile}};

TensorRun At(uint64_t offset, uint64_t bytes, uint32_t segment = kMemory, uint32_t shard = 0) {
  return {.shard = shard, .segment = segment, .file_offset = offset, .stored_bytes = bytes, .bytes = bytes};
}

TEST(CoalesceExtents, JoinsWhatTouches) {
  const auto extents = CoalesceExtents({At(0, 10), At(10, 20), At(30, 1)}, kSegments, 0);
  ASSERT_EQ(extents.size(), 1);
  EXPECT_EQ(extents[0].offset, 0);
  EXPECT_EQ(extents[0].length, 31);
  EXPECT_EQ(extents[0].run_count, 3);
}

TEST(CoalesceExtents, KeepsShardsAndEnginesApart) {
  const auto extents = CoalesceExtents({At(0, 10), At(10, 10, kMemory, 1), At(20, 10, kFile, 1)}, kSegments, 1000);
  EXPECT_EQ(extents.size(), 3);
}

TEST(CoalesceExtents, BridgesTheSmallestGapsWithinTheBudget) {
  const std::vector<TensorRun> runs = {At(0, 10), At(15, 10), At(45, 10), At(58, 10)};  // gaps 5, 20, 3
  EXPECT_EQ(CoalesceExtents(runs, kSegments, 0).size(), 4);
  EXPECT_EQ(CoalesceExtents(runs, kSegments, 3).size(), 3);
  EXPECT_EQ(CoalesceExtents(runs, kSegments, 8).size(), 2);
  EXPECT_EQ(CoalesceExtents(runs, kSegments, 27).size(), 2);
  EXPECT_EQ(CoalesceExtents(runs, kSegments, 28).size(), 1);
}

TEST(CoalesceExtents, EqualGapsAreBridgedAllOrNone) {
  const std::vector<TensorRun> runs = {At(0, 1), At(5, 1), At(10, 1)};  // two gaps of 4
  EXPECT_EQ(CoalesceExtents(runs, kSegments, 7).size(), 3);
  EXPECT_EQ(CoalesceExtents(runs, kSegments, 8).size(), 1);
}

TEST(CoalesceExtents, AGapThatCostsMoreThanARequestIsNotBridged) {
  EXPECT_EQ(CoalesceExtents({At(0, 10), At(10 + (256 << 10), 10)}, kSegments, 1 << 30).size(), 1);
  EXPECT_EQ(CoalesceExtents({At(0, 10), At(11 + (256 << 10), 10)}, kSegments, 1 << 30).size(), 2);
}

TEST(CoalesceExtents, NeverBridgesMappedTensors) {
  EXPECT_EQ(CoalesceExtents({At(0, 10, kFile), At(11, 10, kFile)}, kSegments, 1000).size(), 2);
}

TEST(CoalesceExtents, EmptyRunsCostNothingAndAreCounted) {
  const auto extents = CoalesceExtents({At(0, 10), At(10, 0), At(10, 10)}, kSegments, 0);
  ASSERT_EQ(extents.size(), 1);
  EXPECT_EQ(extents[0].length, 20);
  EXPECT_EQ(extents[0].run_count, 3) << "the runs of an extent are neighbours in the plan";
}

TEST(CoalesceExtents, GapsNeverAddMoreThanTheBudget) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 300; ++round) {
    std::vector<TensorRun> runs;
    uint64_t offset = 0;
    uint64_t selected = 0;
    for (unsigned i = random() % 60; i > 0; --i) {
      offset += random() % 3 == 0 ? 0 : random() % 200;
      runs.push_back(At(offset, random() % 2000, kMemory, 0));
      selected += runs.back().stored_bytes;
      offset += runs.back().stored_bytes;
    }
    uint64_t read = 0;
    for (const Extent& extent : CoalesceExtents(runs, kSegments, GapBudget(selected))) read += extent.length;
    EXPECT_LE((read - selected) * 20, selected);
  }
}

PlannedTensor Tensor(uint64_t file_offset, uint64_t bytes, uint64_t segment_offset, DType dtype = DType::kU8) {
  return {.segment_offset = segment_offset,
          .bytes = bytes,
          .file_offset = file_offset,
          .stored_bytes = bytes,
          .dtype = dtype,
          .stored_dtype = dtype};
}

TEST(CoalesceRuns, JoinsWhatTouchesInTheFileAndInTheSegment) {
  const auto runs =
      CoalesceRuns(std::vector<PlannedTensor>{Tensor(8, 10, 0), Tensor(18, 10, 10, DType::kI8), Tensor(28, 10, 256),  //
                                              Tensor(40, 10, 266)});
  ASSERT_EQ(runs.size(), 3) << "apart in the segment, then apart in the file";
  EXPECT_EQ(runs[0].read_count, 2);
  EXPECT_EQ(runs[0].stored_bytes, 20);
  EXPECT_EQ(runs[1].first_read, 2);
  EXPECT_EQ(runs[2].segment_offset, 266);
}

TEST(CoalesceRuns, KeepsConversionsApart) {
  PlannedTensor converted = Tensor(10, 10, 10);
  converted.stored_dtype = DType::kF16;
  converted.dtype = DType::kF32;
  converted.bytes = 20;
  PlannedTensor next = converted;
  next.file_offset = 20;
  next.segment_offset = 30;
  const auto runs = CoalesceRuns(std::vector<PlannedTensor>{Tensor(0, 10, 0), converted, next, Tensor(30, 10, 50)});
  ASSERT_EQ(runs.size(), 3);
  EXPECT_EQ(runs[1].read_count, 2);
  EXPECT_EQ(runs[1].bytes, 40);
}

}  // namespace
}  // namespace keyload
