// Keys of several parts, and keys that are a part of a stored tensor.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/made_keys.h"
#include "tests/unit/plan/plan_case.h"

namespace keyload {
namespace {

using testing::ElementsAre;

KeyReport Report(const std::vector<CaseTensor>& tensors, const std::vector<CaseMade>& made) {
  KeyReport report = *MakeKeyReport(tensors);
  AddMadeKeys(made, report);
  return report;
}

std::shared_ptr<const LoadPlan> Build(const KeyReport& keys, const std::string& device,
                                      const DTypeRequest& dtype = {}) {
  const PlacementInput input = MakePlacementInput(keys, dtype, {});
  return BuildLoadPlan(keys, input, PlaceAll(input, device));
}

const PlannedTensor& TensorOf(const KeyReport& keys, const LoadPlan& plan, std::string_view name) {
  for (const PlannedTensor& tensor : plan.tensors) {
    if (keys.keys[tensor.key].name == name) return tensor;
  }
  ADD_FAILURE() << "no tensor " << name;
  return plan.tensors.front();
}

// Where the runs go, in the order of the file: their offsets in the segment.
std::vector<uint64_t> SegmentOffsets(const LoadPlan& plan) {
  std::vector<uint64_t> offsets;
  for (const TensorRun& run : plan.runs) offsets.push_back(run.segment_offset);
  return offsets;
}

TEST(PlanParts, OnePlaceAndReadsInTheOrderOfTheFile) {
  const KeyReport keys =
      Report({{.name = "e.1", .elements = 4}, {.name = "n", .elements = 4}, {.name = "e.0", .elements = 4}},
             {{"e", {"e.0", "e.1"}}});
  const auto plan = Build(keys, "cuda:0");
  ASSERT_EQ(plan->tensors.size(), 2);
  const PlannedTensor& made = TensorOf(keys, *plan, "e");
  EXPECT_EQ(made.bytes, 32);
  EXPECT_EQ(made.stored_bytes, 32);
  EXPECT_EQ(plan->selected_bytes, 48);
  ASSERT_EQ(plan->reads().size(), 3);
  EXPECT_TRUE(std::is_sorted(plan->reads().begin(), plan->reads().end(),
                             [](const auto& a, const auto& b) { return a.file_offset < b.file_offset; }));
  const uint64_t alone = TensorOf(keys, *plan, "n").segment_offset;
  EXPECT_THAT(SegmentOffsets(*plan), ElementsAre(made.segment_offset + 16, alone, made.segment_offset));
  ASSERT_EQ(plan->extents.size(), 1) << "the file is read in one piece";
  EXPECT_EQ(plan->extents[0].length, 48);
}

TEST(PlanParts, PartsThatFollowOneAnotherAreOneRun) {
  const KeyReport keys =
      Report({{.name = "e.0", .elements = 4}, {.name = "e.1", .elements = 4}}, {{"e", {"e.0", "e.1"}}});
  const auto plan = Build(keys, "cuda:0");
  ASSERT_EQ(plan->runs.size(), 1);
  EXPECT_EQ(plan->runs[0].bytes, 32);
  EXPECT_EQ(plan->runs[0].read_count, 2);
}

TEST(PlanParts, TheTensorBehindThePartsKeepsItsAlignment) {
  const KeyReport keys = Report({{.name = "e.0", .dtype = DType::kU8, .elements = 3},
                                 {.name = "e.1", .dtype = DType::kU8, .elements = 2},
                                 {.name = "n", .dtype = DType::kU8, .elements = 4}},
                                {{"e", {"e.0", "e.1"}}});
  const auto plan = Build(keys, "cuda:0");
  for (const PlannedTensor& tensor : plan->tensors) EXPECT_EQ(tensor.segment_offset % 256, 0);
}

TEST(PlanParts, PartsOfSeveralShards) {
  const KeyReport keys =
      Report({{.name = "e.1", .elements = 4}, {.name = "e.0", .elements = 4, .shard = 1}}, {{"e", {"e.0", "e.1"}}});
  const auto plan = Build(keys, "cuda:0");
  ASSERT_EQ(plan->tensors.size(), 1);
  EXPECT_EQ(plan->tensors[0].shard, 1) << "the first part's";
  EXPECT_THAT(SegmentOffsets(*plan), ElementsAre(16, 0));
  EXPECT_EQ(plan->extents.size(), 2);
}

TEST(PlanParts, SeveralPartsAreNeverMapped) {
  const KeyReport keys =
      Report({{.name = "e.0", .elements = 4}, {.name = "e.1", .elements = 4}, {.name = "n", .elements = 4}},
             {{"e", {"e.0", "e.1"}}});
  const auto plan = Build(keys, "cpu");
  EXPECT_EQ(plan->mapped_bytes, 16);
  EXPECT_EQ(plan->segments[TensorOf(keys, *plan, "e").segment].kind, SegmentKind::kMemory);
}

TEST(PlanParts, APartOfATensorIsMappedWhereItIsAligned) {
  const KeyReport keys = Report({{.name = "qk", .elements = 8}}, {{"q", {{"qk", 0, 12}}}, {"k", {{"qk", 12, 20}}}});
  const auto plan = Build(keys, "cpu");
  EXPECT_EQ(plan->mapped_bytes, 32);
  const PlannedTensor& k = TensorOf(keys, *plan, "k");
  EXPECT_EQ(k.file_offset, keys.index->tensors()[0].offset + 12);
  EXPECT_EQ(k.segment_offset, k.file_offset);
  EXPECT_EQ(k.bytes, 20);
  EXPECT_EQ(k.part_count, 0);
}

TEST(PlanParts, ConvertedPartsLieBehindConvertedParts) {
  const KeyReport keys = Report(
      {{.name = "e.1", .dtype = DType::kBF16, .elements = 4}, {.name = "e.0", .dtype = DType::kBF16, .elements = 8}},
      {{"e", {"e.0", "e.1"}}});
  const auto plan = Build(keys, "cpu", {.wanted = DType::kF32, .keep_in_fp32 = {}});
  EXPECT_EQ(plan->tensors[0].bytes, 48);
  EXPECT_EQ(plan->tensors[0].dtype, DType::kF32);
  EXPECT_THAT(SegmentOffsets(*plan), ElementsAre(32, 0));
  EXPECT_EQ(plan->runs[0].bytes, 16);
  EXPECT_TRUE(plan->runs[0].converts());
}

TEST(PlanParts, ASubPlanReadsThePartsOfItsTensors) {
  const KeyReport keys = Report({{.name = "f.1", .elements = 4},
                                 {.name = "e.1", .elements = 4},
                                 {.name = "e.0", .elements = 4},
                                 {.name = "f.0", .elements = 4},
                                 {.name = "n", .elements = 4}},
                                {{"e", {"e.0", "e.1"}}, {"f", {"f.0", "f.1"}}});
  const auto plan = Build(keys, "cuda:0");
  const std::vector<uint32_t> chosen = {static_cast<uint32_t>(&TensorOf(keys, *plan, "f") - plan->tensors.data())};
  const auto part = SubPlan(*plan, chosen);
  ASSERT_EQ(part->tensors.size(), 1);
  EXPECT_EQ(part->selected_bytes, 32);
  const uint64_t begin = part->tensors[0].segment_offset;
  EXPECT_THAT(SegmentOffsets(*part), ElementsAre(begin + 16, begin));
  EXPECT_EQ(part->PartsOf(part->tensors[0])[0].file_offset, keys.index->tensors()[3].offset);
}

TEST(PlanParts, OnDiskNothingIsPlanned) {
  const KeyReport keys =
      Report({{.name = "e.0", .elements = 4}, {.name = "e.1", .elements = 4}}, {{"e", {"e.0", "e.1"}}});
  const auto plan = Build(keys, "disk");
  EXPECT_EQ(plan->lazy_keys.size(), 1);
  EXPECT_TRUE(plan->parts.empty());
}

}  // namespace
}  // namespace keyload
