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
    plan.tensors.push_back({.file_offset = offset, .stored_bytes = bytes, .dtype = dtype, .stored_dtype = dtype});
  }
  plan.extents = CoalesceExtents(plan.tensors, plan.segments, 1000);
  return plan;
}

// Every byte of every tensor is in exactly one block that names the tensor, and blocks keep their limits.
void ExpectCovers(const LoadPlan& plan, const std::vector<Block>& blocks, const BlockLimits& limits) {
  std::vector<uint64_t> covered(plan.tensors.size());
  for (const Block& block : blocks) {
    EXPECT_LE(block.length, limits.buffered_bytes);
    EXPECT_LE(block.end_tensor - block.first_tensor, limits.tensors + 1);
    for (uint32_t i = block.first_tensor; i < block.end_tensor; ++i) {
      const PlannedTensor& tensor = plan.tensors[i];
      const uint64_t begin = std::max(tensor.file_offset, block.offset);
      const uint64_t end = std::min(tensor.file_offset + tensor.stored_bytes, block.offset + block.length);
      ASSERT_LE(begin, end);
      EXPECT_EQ(begin, tensor.file_offset + covered[i]) << "blocks of a tensor come in order, without holes";
      EXPECT_EQ((begin - tensor.file_offset) % (DTypeBits(tensor.stored_dtype) / 8), 0) << "an element is cut in two";
      covered[i] += end - begin;
    }
  }
  for (size_t i = 0; i < covered.size(); ++i) EXPECT_EQ(covered[i], plan.tensors[i].stored_bytes) << i;
}

TEST(CutBlocks, CutsALargeTensorAtElements) {
  const LoadPlan plan = MakePlan({{3, 1000}}, DType::kF64);
  const BlockLimits limits = {.buffered_bytes = 100};
  const std::vector<Block> blocks = CutBlocks(plan, limits);
  EXPECT_EQ(blocks.size(), 11);
  EXPECT_EQ(blocks[0].length, 96);
  ExpectCovers(plan, blocks, limits);
}

TEST(CutBlocks, GathersSmallTensors) {
  const LoadPlan plan = MakePlan({{0, 10}, {10, 10}, {20, 10}, {30, 10}});
  const std::vector<Block> blocks = CutBlocks(plan, {.buffered_bytes = 25});
  ASSERT_EQ(blocks.size(), 2);
  EXPECT_EQ(blocks[0].end_tensor, 3) << "the third is cut";
  EXPECT_EQ(blocks[1].first_tensor, 2);
}

TEST(CutBlocks, LimitsTheTensorsOfABlock) {
  const LoadPlan plan = MakePlan({{0, 1}, {1, 1}, {2, 1}, {3, 1}, {4, 1}});
  const BlockLimits limits = {.buffered_bytes = 100, .tensors = 2};
  const std::vector<Block> blocks = CutBlocks(plan, limits);
  EXPECT_EQ(blocks.size(), 3);
  ExpectCovers(plan, blocks, limits);
}

TEST(CutBlocks, EmptyTensorsAreInABlock) {
  const LoadPlan plan = MakePlan({{0, 0}, {0, 8}, {8, 0}, {8, 0}});
  const std::vector<Block> blocks = CutBlocks(plan, {.buffered_bytes = 4});
  ExpectCovers(plan, blocks, {.buffered_bytes = 4});
  uint32_t last = 0;
  for (const Block& block : blocks) last = std::max(last, block.end_tensor);
  EXPECT_EQ(last, 4);
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
      offset += bytes;
    }
    constexpr DType kTypes[] = {DType::kU8, DType::kF16, DType::kF32, DType::kF64};
    const LoadPlan plan = MakePlan(tensors, kTypes[std::countr_zero(element)]);
    const BlockLimits limits = {.buffered_bytes = 8 + random() % 200,
                                .tensors = 1 + static_cast<uint32_t>(random() % 5)};
    ExpectCovers(plan, CutBlocks(plan, limits), limits);
  }
}

}  // namespace
}  // namespace keyload
