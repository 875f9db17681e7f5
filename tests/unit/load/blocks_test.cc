#include "server/load/blocks.h"

#include <gtest/gtest.h>

#include <random>

#include "server/plan/extents.h"

namespace keyload {
namespace {

// Tensors one behind the other, with the gaps that joining bridges.
LoadPlan MakePlan(const std::vector<std::pair<uint64_t, uint64_t>>& offset_and_bytes, DType dtype = DType::kU8) {
  LoadPlan plan;
  plan.segments = {{.kind = SegmentKind::kMemory}};
  for (const auto& [offset, bytes] : offset_and_bytes) {
    plan.tensors.push_back({.segment_offset = offset * 2,
                            .bytes = bytes * 2,
                            .file_offset = offset,
                            .stored_bytes = bytes,
                            .dtype = DType::kC64,  // whatever differs: the runs are converted
                            .stored_dtype = dtype});
  }
  plan.runs = CoalesceRuns(plan.tensors);
  plan.extents = CoalesceExtents(plan.runs, plan.segments, 1000);
  return plan;
}

std::vector<Block> CutBlocks(const LoadPlan& plan, const BlockLimits& limits) {
  std::vector<Block> blocks;
  BlockCutter cutter(plan, limits);
  while (const std::optional<Block> block = cutter.Next()) blocks.push_back(*block);
  return blocks;
}

// Every byte of every run is in exactly one block that names the run, and blocks keep their limits.
void ExpectCovers(const LoadPlan& plan, const std::vector<Block>& blocks, const BlockLimits& limits) {
  std::vector<uint64_t> covered(plan.runs.size());
  uint64_t tensors = 0;
  uint64_t wanted = 0;
  for (const Block& block : blocks) {
    EXPECT_LE(block.length, limits.buffered_bytes);
    EXPECT_GT(block.length, 0);
    EXPECT_LE(block.end_run - block.first_run, limits.runs + 1);
    tensors += block.tensors;
    wanted += block.wanted_bytes;
    for (uint32_t i = block.first_run; i < block.end_run; ++i) {
      const TensorRun& run = plan.runs[i];
      const uint64_t begin = std::max(run.file_offset, block.offset);
      const uint64_t end = std::min(run.file_offset + run.stored_bytes, block.offset + block.length);
      ASSERT_LE(begin, end);
      if (run.stored_bytes == 0) continue;
      EXPECT_EQ(begin, run.file_offset + covered[i]) << "blocks of a run come in order, without holes";
      EXPECT_EQ((begin - run.file_offset) % (DTypeBits(run.stored_dtype) / 8), 0) << "an element is cut in two";
      covered[i] += end - begin;
    }
  }
  uint64_t bytes = 0;
  uint64_t empty = 0;  // tensors in runs without bytes
  for (size_t i = 0; i < covered.size(); ++i) {
    EXPECT_EQ(covered[i], plan.runs[i].stored_bytes) << i;
    bytes += plan.runs[i].stored_bytes;
    if (plan.runs[i].stored_bytes == 0) empty += plan.runs[i].read_count;
  }
  EXPECT_EQ(wanted, bytes);
  EXPECT_LE(tensors, plan.tensors.size());
  EXPECT_GE(tensors + empty, plan.tensors.size()) << "a tensor counts in the block that it ends in";
}

TEST(CutBlocks, CutsALargeTensorAtElements) {
  const LoadPlan plan = MakePlan({{3, 1000}}, DType::kF64);
  const BlockLimits limits = {.buffered_bytes = 100};
  const std::vector<Block> blocks = CutBlocks(plan, limits);
  EXPECT_EQ(blocks.size(), 11);
  EXPECT_EQ(blocks[0].length, 96);
  ExpectCovers(plan, blocks, limits);
}

TEST(CutBlocks, CountsTheTensorsThatEndInABlock) {
  const LoadPlan plan = MakePlan({{0, 10}, {10, 10}, {20, 10}, {30, 10}});
  const std::vector<Block> blocks = CutBlocks(plan, {.buffered_bytes = 25});
  ASSERT_EQ(blocks.size(), 2);
  EXPECT_EQ(blocks[0].tensors, 2) << "the third is cut";
  EXPECT_EQ(blocks[1].tensors, 2);
}

TEST(CutBlocks, LimitsTheRunsOfABlock) {
  const LoadPlan plan = MakePlan({{0, 1}, {2, 1}, {4, 1}, {6, 1}, {8, 1}});
  const BlockLimits limits = {.buffered_bytes = 100, .runs = 2};
  const std::vector<Block> blocks = CutBlocks(plan, limits);
  EXPECT_EQ(blocks.size(), 3);
  EXPECT_EQ(blocks[0].wanted_bytes, 2);
  EXPECT_EQ(blocks[0].length, 3) << "with the gap";
  ExpectCovers(plan, blocks, limits);
}

TEST(CutBlocks, LaterBlocksBeginAtSectors) {
  const LoadPlan plan = MakePlan({{100, 50'000}});
  const std::vector<Block> blocks = CutBlocks(plan, {.buffered_bytes = 16'384});
  ASSERT_EQ(blocks.size(), 4);
  EXPECT_EQ(blocks[0].length, 16'284);
  for (size_t i = 1; i < blocks.size(); ++i) EXPECT_EQ(blocks[i].offset, i * 16'384);
}

TEST(CutBlocks, EmptyTensorsCountWithTheirNeighbours) {
  const LoadPlan plan = MakePlan({{0, 0}, {0, 8}, {8, 0}, {8, 0}});
  const std::vector<Block> blocks = CutBlocks(plan, {.buffered_bytes = 4});
  ExpectCovers(plan, blocks, {.buffered_bytes = 4});
}

TEST(CutBlocks, CoversRandomPlans) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::pair<uint64_t, uint64_t>> tensors;
    uint64_t offset = random() % 50;
    const uint64_t element = uint64_t{1} << random() % 4;
    for (unsigned i = random() % 30; i > 0; --i) {
      if (random() % 4 == 0) offset += random() % 20;
      const uint64_t bytes = random() % 5 == 0 ? 0 : element * (random() % 60);
      tensors.emplace_back(offset, bytes);
      // A plan sorts the ones without bytes before the one at their offset.
      for (unsigned more = random() % 8 == 0 ? random() % 8 : 0; more > 0; --more)
        tensors.insert(tensors.end() - 1, {offset, 0});
      offset += bytes;
    }
    constexpr DType kTypes[] = {DType::kU8, DType::kF16, DType::kF32, DType::kF64};
    const LoadPlan plan = MakePlan(tensors, kTypes[std::countr_zero(element)]);
    const BlockLimits limits = {.buffered_bytes = 8 + random() % 200, .runs = 1 + static_cast<uint32_t>(random() % 5)};
    ExpectCovers(plan, CutBlocks(plan, limits), limits);
  }
}

}  // namespace
}  // namespace keyload
