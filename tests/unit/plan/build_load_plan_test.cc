#include <gmock/gmock.h>
#include <gtest/gtest.h>

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

TEST(BuildLoadPlan, DiskKeysAreLeftLazy) {
  const auto keys = MakeKeyReport({{.name = "a", .elements = 4}, {.name = "b", .elements = 4}});
  const PlacementInput input = MakePlacementInput(*keys, {}, {});
  const auto plan = BuildLoadPlan(*keys, input, PlaceEach({"cuda:0", "disk"}));
  EXPECT_THAT(plan->lazy_keys, testing::ElementsAre(1));
  EXPECT_EQ(plan->tensors.size(), 1);
  EXPECT_EQ(plan->selected_bytes, 16);
}

TEST(BuildLoadPlan, GapsAddAtMostOneHundredth) {
  std::vector<CaseTensor> tensors = {{.name = "a", .dtype = DType::kU8, .elements = 5000},
                                     {.name = "b", .dtype = DType::kU8, .elements = 4900, .gap_before = 99},
                                     {.name = "c", .dtype = DType::kU8, .elements = 100, .gap_before = 99}};
  const auto keys = MakeKeyReport(tensors);
  uint64_t read = 0;
  for (const Extent& extent : Build(*keys, "cuda:0")->extents) read += extent.length;
  EXPECT_LE(read, 10'100);
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
