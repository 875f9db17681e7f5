#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/plan/segments.h"
#include "tests/unit/plan/plan_case.h"

namespace keyload {
namespace {

constexpr uint64_t kMiB = 1 << 20;

std::shared_ptr<const LoadPlan> Build(const KeyReport& keys, const std::string& device,
                                      const DTypeRequest& dtype = {}) {
  const PlacementInput input = MakePlacementInput(keys, dtype, {});
  return BuildLoadPlan(keys, input, PlaceAll(input, device));
}

TEST(BuildLoadPlan, HostTensorsStayInTheirFile) {
  const auto keys = MakeKeyReport({{.name = "a", .elements = 4}, {.name = "b", .elements = 4}});
  const auto plan = Build(*keys, "cpu");
  EXPECT_EQ(plan->mapped_bytes, 32);
  EXPECT_EQ(plan->reserve_bytes[0], 0);
  ASSERT_EQ(plan->segments.size(), 1) << "one file, one segment";
  EXPECT_EQ(plan->segments[0].kind, SegmentKind::kFile);
  EXPECT_EQ(plan->tensors[1].segment_offset, plan->tensors[1].file_offset);
}

TEST(BuildLoadPlan, UnalignedHostTensorsAreCopied) {
  const auto keys =
      MakeKeyReport({{.name = "a", .elements = 4, .gap_before = 1}, {.name = "b", .dtype = DType::kU8, .elements = 4}});
  const auto plan = Build(*keys, "cpu");
  EXPECT_EQ(plan->mapped_bytes, 4) << "a byte tensor can lie anywhere";
  EXPECT_EQ(plan->reserve_bytes[0], 256);
}

TEST(BuildLoadPlan, ConvertedHostTensorsAreCopied) {
  const auto keys = MakeKeyReport({{.name = "a", .elements = 128}});
  const auto plan = Build(*keys, "cpu", {.wanted = DType::kBF16});
  EXPECT_EQ(plan->mapped_bytes, 0);
  EXPECT_EQ(plan->tensors[0].bytes, 256);
  EXPECT_EQ(plan->tensors[0].stored_bytes, 512);
  EXPECT_EQ(plan->selected_bytes, 512);
}

TEST(BuildLoadPlan, SegmentsAreLayersOfAtLeastTwoMiB) {
  std::vector<CaseTensor> tensors;
  for (int layer = 0; layer < 4; ++layer) {
    for (const char* part : {"q", "k"}) {
      tensors.push_back({.name = "h." + std::to_string(layer) + "." + part, .dtype = DType::kU8, .elements = kMiB});
    }
  }
  const auto keys = MakeKeyReport(tensors);
  const auto plan = Build(*keys, "cuda:0");
  EXPECT_EQ(plan->segments.size(), 4);
  for (size_t i = 0; i < plan->tensors.size(); ++i) EXPECT_EQ(plan->tensors[i].segment, i / 2);
  EXPECT_EQ(plan->reserve_bytes[0], 8 * kMiB);
}

TEST(BuildLoadPlan, SmallUnitsShareASegmentAndKeepTheirAlignment) {
  const auto keys = MakeKeyReport(
      {{.name = "a.w", .dtype = DType::kU8, .elements = 3}, {.name = "b.w", .dtype = DType::kU8, .elements = 3}});
  const auto plan = Build(*keys, "cuda:0");
  ASSERT_EQ(plan->segments.size(), 1);
  EXPECT_EQ(plan->tensors[1].segment_offset, 256);
  EXPECT_EQ(plan->segments[0].bytes, 512);
}

TEST(BuildLoadPlan, TensorsComeInFileOrderWhateverTheModelsOrder) {
  auto report = std::make_shared<KeyReport>(KeyReport());
  const auto keys = MakeKeyReport({{.name = "a", .elements = 4}, {.name = "b", .elements = 4}});
  report->index = keys->index;
  report->keys = {keys->keys[1], keys->keys[0]};
  const auto plan = Build(*report, "cuda:0");
  EXPECT_LT(plan->tensors[0].file_offset, plan->tensors[1].file_offset);
  EXPECT_EQ(plan->extents.size(), 1);
}

TEST(BuildLoadPlan, AnEmptyTensorComesBeforeTheOneAtItsOffset) {
  const auto keys = MakeKeyReport({{.name = "z", .elements = 0}, {.name = "a", .elements = 4}});
  auto report = std::make_shared<KeyReport>(KeyReport());
  report->index = keys->index;
  report->keys = {keys->keys[1], keys->keys[0]};
  for (const char* device : {"cuda:0", "cpu"}) {
    const auto plan = Build(*report, device);
    EXPECT_EQ(plan->tensors[0].stored_bytes, 0) << device;
    EXPECT_EQ(plan->tensors[1].stored_bytes, 16) << device;
  }
}

TEST(BuildLoadPlan, DiskKeysAreLeftLazy) {
  const auto keys = MakeKeyReport({{.name = "a", .elements = 4}, {.name = "b", .elements = 4}});
  const PlacementInput input = MakePlacementInput(*keys, {}, {});
  const auto plan = BuildLoadPlan(*keys, input, PlaceEach({"cuda:0", "disk"}));
  EXPECT_THAT(plan->lazy_keys, testing::ElementsAre(1));
  EXPECT_EQ(plan->tensors.size(), 1);
  EXPECT_EQ(plan->selected_bytes, 16);
}

TEST(BuildLoadPlan, GapsAndSectorsAddAtMostOneTwentieth) {
  std::vector<CaseTensor> tensors = {{.name = "a", .dtype = DType::kU8, .elements = 5000},
                                     {.name = "b", .dtype = DType::kU8, .elements = 4900, .gap_before = 250},
                                     {.name = "c", .dtype = DType::kU8, .elements = 100, .gap_before = 250}};
  const auto keys = MakeKeyReport(tensors);
  uint64_t read = 0;
  const auto plan = Build(*keys, "cuda:0");
  for (const Extent& extent : plan->extents) read += extent.length;
  EXPECT_LE(read + plan->selected_bytes / kRoundingShare, plan->selected_bytes + plan->selected_bytes / kOverReadShare);
}

TEST(BuildLoadPlan, NeighboursInTheFileAreOneRunAndOneExtent) {
  std::vector<CaseTensor> tensors;
  for (int i = 0; i < 100; ++i) tensors.push_back({.name = "h." + std::to_string(i) + ".w", .elements = 4});
  const auto keys = MakeKeyReport(tensors);
  const auto plan = Build(*keys, "cuda:0");
  ASSERT_EQ(plan->runs.size(), 1);
  EXPECT_EQ(plan->runs[0].read_count, 100);
  EXPECT_EQ(plan->extents.size(), 1);
  EXPECT_EQ(plan->segments[0].bytes, 1792) << "1600 bytes without a hole";
}

TEST(BuildLoadPlan, ATensorThatWouldBeMisalignedStartsARunOfItsOwn) {
  const auto keys = MakeKeyReport({{.name = "a", .dtype = DType::kU8, .elements = 4},
                                   {.name = "b", .elements = 4},
                                   {.name = "c", .dtype = DType::kU8, .elements = 2},
                                   {.name = "d", .elements = 4}});
  for (const char* device : {"cpu", "cuda:0"}) {
    const PlacementInput input = MakePlacementInput(*keys, {}, {});
    const auto plan = BuildLoadPlan(*keys, input, PlaceAll(input, device), {.map_host_tensors = false});
    const uint64_t alignment = device == std::string("cpu") ? 4 : 16;
    for (const PlannedTensor& tensor : plan->tensors) {
      const uint64_t needed = device == std::string("cpu") && tensor.dtype == DType::kU8 ? 1 : alignment;
      EXPECT_EQ(tensor.segment_offset % needed, 0) << device << " " << tensor.key;
    }
    EXPECT_EQ(plan->runs.size(), device == std::string("cpu") ? 2u : 3u);
  }
}

TEST(BuildLoadPlan, ConvertedNeighboursAreOneRun) {
  const auto keys = MakeKeyReport({{.name = "a", .elements = 16}, {.name = "b", .elements = 16}});
  const auto plan = Build(*keys, "cuda:0", {.wanted = DType::kBF16});
  ASSERT_EQ(plan->runs.size(), 1);
  EXPECT_EQ(plan->runs[0].bytes, 64);
  EXPECT_EQ(plan->runs[0].stored_bytes, 128);
}

TEST(BuildLoadPlan, AnExpertIsAUnitOfItsOwn) {
  std::vector<CaseTensor> tensors = {{.name = "h.0.norm", .dtype = DType::kU8, .elements = 64}};
  for (const char* name : {"h.0.experts.0.w", "h.0.experts.1.w", "h.0.z"}) {
    tensors.push_back({.name = name, .dtype = DType::kU8, .elements = 2 * kMiB});
  }
  const auto keys = MakeKeyReport(tensors);
  const auto plan = Build(*keys, "cuda:0");
  ASSERT_EQ(plan->segments.size(), 3);
  EXPECT_EQ(plan->tensors[0].segment, plan->tensors[3].segment) << "the rest of the layer";
  EXPECT_NE(plan->tensors[1].segment, plan->tensors[2].segment);
  EXPECT_EQ(plan->segments[plan->tensors[1].segment].tensor_bytes, 2 * kMiB);
}

TEST(BuildLoadPlan, ShardsThatMustNotBeMappedAreCopied) {
  const auto keys = MakeKeyReport({{.name = "a", .elements = 4}, {.name = "b", .elements = 4, .shard = 1}});
  const PlacementInput input = MakePlacementInput(*keys, {}, {});
  const auto plan = BuildLoadPlan(*keys, input, PlaceAll(input, "cpu"),
                                  {.may_map_shard = [](const Shard& shard) { return shard.file == "shard-1"; }});
  EXPECT_EQ(plan->mapped_bytes, 16);
  EXPECT_EQ(plan->segments[plan->tensors[0].segment].kind, SegmentKind::kFile);
  EXPECT_EQ(plan->tensors[0].shard, 1);
}

TEST(EvictionUnit, IsTheModuleUpToItsLastNumber) {
  EXPECT_EQ(EvictionUnit("model.layers.3.mlp.experts.17.down_proj.weight"), "model.layers.3.mlp.experts.17");
  EXPECT_EQ(EvictionUnit("model.layers.3.self_attn.q_proj.weight"), "model.layers.3");
  EXPECT_EQ(EvictionUnit("model.embed_tokens.weight"), "model.embed_tokens");
  EXPECT_EQ(EvictionUnit("h.0"), "h") << "the last component names the tensor";
  EXPECT_EQ(EvictionUnit("weight"), "");
  EXPECT_EQ(EvictionUnit("3.weight"), "3");
  EXPECT_EQ(EvictionUnit("a..w"), "a.");
}

TEST(BuildLoadPlan, ASecondStoredCopyOfATiedTensorIsAloneInItsSegment) {
  auto report = std::make_shared<KeyReport>(KeyReport());
  const auto keys = MakeKeyReport(
      {{.name = "embed", .elements = 4}, {.name = "head", .elements = 4}, {.name = "other", .elements = 4}});
  report->index = keys->index;
  report->keys = keys->keys;
  report->tied_groups = {{0, 1}};
  const auto plan = Build(*report, "cuda:0");
  ASSERT_EQ(plan->duplicates.size(), 1);
  const uint32_t duplicate = plan->duplicates[0].tensor;
  EXPECT_EQ(plan->tensors[duplicate].key, 1);
  EXPECT_EQ(plan->tensors[plan->duplicates[0].provider].key, 0);
  for (uint32_t i = 0; i < plan->tensors.size(); ++i) {
    if (i == duplicate) continue;
    EXPECT_NE(plan->tensors[i].segment, plan->tensors[duplicate].segment);
  }
}

TEST(BuildLoadPlan, HostTensorsAreCopiedWhereMappingIsNotWanted) {
  const auto keys = MakeKeyReport({{.name = "a", .elements = 4}});
  const PlacementInput input = MakePlacementInput(*keys, {}, {});
  const auto plan = BuildLoadPlan(*keys, input, PlaceAll(input, "cpu"), {.map_host_tensors = false});
  EXPECT_EQ(plan->segments[plan->tensors[0].segment].kind, SegmentKind::kMemory);
  EXPECT_EQ(plan->mapped_bytes, 0);
  EXPECT_EQ(BuildLoadPlan(*keys, input, PlaceAll(input, "cpu"))->mapped_bytes, 16);
}

TEST(SubPlan, KeepsAddressesAndCountsOnlyItsTensors) {
  const auto keys = MakeKeyReport({{.name = "a", .dtype = DType::kU8, .elements = 3 << 20},
                                   {.name = "b.0.w", .dtype = DType::kU8, .elements = 3 << 20},
                                   {.name = "b.1.w", .dtype = DType::kU8, .elements = 3 << 20}});
  const auto plan = Build(*keys, "cuda:0");
  ASSERT_EQ(plan->segments.size(), 3);
  const uint32_t wanted[] = {1};
  const auto part = SubPlan(*plan, wanted);
  ASSERT_EQ(part->tensors.size(), 1);
  EXPECT_EQ(part->tensors[0].segment, plan->tensors[1].segment);
  EXPECT_EQ(part->tensors[0].segment_offset, plan->tensors[1].segment_offset);
  EXPECT_EQ(part->segments.size(), 3);
  ASSERT_EQ(part->extents.size(), 1);
  EXPECT_EQ(part->extents[0].offset, plan->tensors[1].file_offset);
  EXPECT_EQ(part->extents[0].length, 3 << 20);
  EXPECT_EQ(part->selected_bytes, 3 << 20);
  EXPECT_THAT(part->reserve_bytes, testing::ElementsAre(plan->segments[part->tensors[0].segment].bytes));
}

TEST(BuildLoadPlan, AnEmptyModelIsAnEmptyPlan) {
  const auto keys = MakeKeyReport({});
  const auto plan = BuildLoadPlan(*keys, MakePlacementInput(*keys, {}, {}), Placement());
  EXPECT_TRUE(plan->tensors.empty());
  EXPECT_TRUE(plan->extents.empty());
}

}  // namespace
}  // namespace keyload
