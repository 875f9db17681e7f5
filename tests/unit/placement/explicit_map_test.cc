#include "server/placement/explicit_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/base/error.h"
#include "server/base/strings.h"
#include "tests/unit/placement/model_builder.h"

namespace keyload {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

using Entries = std::vector<std::pair<std::string, std::string>>;

absl::StatusOr<Placement> PlaceBy(const ModelBuilder& builder, Entries entries) {
  return Place(builder.model(), {.entries = std::move(entries)}, EightGpus());
}

std::string DeviceOfTensor(const ModelBuilder& builder, Entries entries, std::string_view name) {
  const auto placement = PlaceBy(builder, std::move(entries));
  if (!placement.ok()) return std::string(ReasonName(ErrorReason(placement.status())));
  for (size_t i = 0; i < builder.model().tensors.size(); ++i) {
    if (builder.model().tensors[i].name == name) return placement->devices[placement->device_of[i]];
  }
  return "no such tensor";
}

TEST(ExplicitMap, LongestPrefixWinsWhateverTheOrder) {
  const Entries entries = {{"linear1.weight", "cuda:2"}, {"", "cpu"}, {"linear1", "cuda:1"}};
  EXPECT_EQ(DeviceOfTensor(ModelBuilder().M(), entries, "linear1.weight"), "cuda:2");
  EXPECT_EQ(DeviceOfTensor(ModelBuilder().M(), entries, "linear1.bias"), "cuda:1");
  EXPECT_EQ(DeviceOfTensor(ModelBuilder().M(), entries, "linear2.bias"), "cpu");
}

TEST(ExplicitMap, PrefixesEndAtADot) {
  ModelBuilder model;
  model.Param("layers.1.w", 1).Param("layers.10.w", 1);
  EXPECT_EQ(DeviceOfTensor(model, {{"layers.1", "0"}, {"layers", "1"}}, "layers.10.w"), "cuda:1");
  EXPECT_EQ(DeviceOfTensor(model, {{"layers.1", "0"}}, "layers.10.w"), "DEVICE_MAP_INCOMPLETE");
}

TEST(ExplicitMap, MapIsNormalisedAndInRegistrationOrder) {
  const auto placement = PlaceBy(ModelBuilder().M(), {{"linear2", "GPU-333"}, {"batchnorm", "disk"}, {"linear1", "1"}});
  ASSERT_TRUE(placement.ok()) << placement.status();
  EXPECT_EQ(MapText(placement->device_map), "linear1:1 batchnorm:disk linear2:3");
  EXPECT_THAT(placement->devices, ElementsAre("cuda:1", "disk", "cuda:3"));
  EXPECT_THAT(placement->device_of, ElementsAre(0, 0, 1, 1, 1, 1, 1, 2, 2));
  EXPECT_THAT(placement->warnings, IsEmpty());
}

// What the model computes has a size and no bytes in a checkpoint.
PlacementModel WithComputed(std::vector<std::pair<std::string_view, bool>> tensors) {
  PlacementModel model;
  for (const auto& [name, computed] : tensors)
    model.tensors.push_back({.name = name, .bytes = 4, .buffer = computed, .computed = computed});
  return model;
}

TEST(ExplicitMap, ComputedBuffersNeedNoEntryAndFollowWhatIsBeforeThem) {
  const PlacementModel model =
      WithComputed({{"rotary.inv_freq", true}, {"a.w", false}, {"b.w", false}, {"b.pos", true}});
  const auto placement = Place(model, {.entries = {{"a", "0"}, {"b.w", "1"}}}, EightGpus());
  ASSERT_TRUE(placement.ok()) << placement.status();
  EXPECT_EQ(MapText(placement->device_map), "a:0 b.w:1");
  EXPECT_THAT(placement->device_of, ElementsAre(0, 0, 1, 1));
  EXPECT_THAT(placement->warnings, IsEmpty());
}

TEST(ExplicitMap, AnEntryForAComputedBufferCounts) {
  const PlacementModel model = WithComputed({{"a.w", false}, {"rotary.inv_freq", true}});
  const auto placement = Place(model, {.entries = {{"a", "0"}, {"rotary", "cpu"}}}, EightGpus());
  ASSERT_TRUE(placement.ok()) << placement.status();
  EXPECT_THAT(placement->devices, ElementsAre("cuda:0", "cpu"));
}

TEST(ExplicitMap, WhatIsStoredNeedsADeviceBesideComputedBuffers) {
  const PlacementModel model = WithComputed({{"a.w", false}, {"a.mask", true}, {"b.w", false}});
  const auto placement = Place(model, {.entries = {{"a", "0"}}}, EightGpus());
  EXPECT_EQ(ErrorReason(placement.status()), Reason::kDeviceMapIncomplete);
  EXPECT_THAT(ToStd(placement.status().message()), HasSubstr("no device to 1 of 3 tensors: \"b.w\""));
  EXPECT_FALSE(Place(WithComputed({{"a.mask", true}}), {.entries = {{"b", "0"}}}, EightGpus()).ok());
}

TEST(ExplicitMap, RootEntryCoversAll) {
  const auto placement = PlaceBy(ModelBuilder().M(), {{"", "0"}});
  ASSERT_TRUE(placement.ok());
  EXPECT_EQ(MapText(placement->device_map), "/:0");
}

TEST(ExplicitMap, TensorsWithoutADeviceAreNamedAndCounted) {
  const absl::Status status = PlaceBy(ModelBuilder().M(), {{"linear1", "0"}}).status();
  EXPECT_EQ(ErrorReason(status), Reason::kDeviceMapIncomplete);
  EXPECT_THAT(std::string(status.message()), HasSubstr("7 of 9 tensors"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"batchnorm.num_batches_tracked\""));
  EXPECT_THAT(std::string(status.message()), Not(HasSubstr("linear2.bias")));
  EXPECT_EQ(ErrorDetails(status).at("count"), "7");
}

TEST(ExplicitMap, EntriesThatMatchNothingAreOneWarning) {
  Entries entries = {{"", "0"}};
  for (int i = 0; i < 12; ++i) entries.emplace_back(StrCat("gone.", i), "cpu");
  const auto placement = PlaceBy(ModelBuilder().M(), entries);
  ASSERT_TRUE(placement.ok());
  ASSERT_EQ(placement->warnings.size(), 1u);
  EXPECT_THAT(placement->warnings[0], HasSubstr("12 entries"));
  EXPECT_THAT(placement->warnings[0], HasSubstr("\"gone.9\""));
  EXPECT_THAT(placement->warnings[0], Not(HasSubstr("\"gone.10\"")));
  EXPECT_EQ(MapText(placement->device_map), "/:0");
}

TEST(ExplicitMap, ModuleWithoutTensorsIsNoWarning) {
  ModelBuilder model;
  model.Linear("a", 1, 1).Module("dropout", "Dropout");
  const auto placement = PlaceBy(model, {{"a", "0"}, {"dropout", "0"}});
  ASSERT_TRUE(placement.ok());
  EXPECT_THAT(placement->warnings, IsEmpty());
}

TEST(ExplicitMap, UnknownDeviceIsRefused) {
  EXPECT_EQ(DeviceOfTensor(ModelBuilder().M(), {{"", "cuda:8"}}, "linear1.bias"), "DEVICE_UNKNOWN");
}

TEST(ExplicitMap, OneModuleWithTwoDevicesIsRefused) {
  EXPECT_EQ(DeviceOfTensor(ModelBuilder().M(), {{"", "0"}, {"", "1"}}, "linear1.bias"), "DEVICE_MAP_INVALID");
  EXPECT_EQ(DeviceOfTensor(ModelBuilder().M(), {{"", "0"}, {"", "cuda:0"}}, "linear1.bias"), "cuda:0");
}

TEST(ExplicitMap, EntriesAreCountedByTheirComponents) {
  RequestContext context;
  context.heap = std::make_shared<RequestHeap>(std::make_shared<HeapAccount>(1 << 20));
  ModelBuilder builder;
  builder.M();
  EXPECT_TRUE(Place(builder.model(), {.entries = {{"", "cpu"}}}, EightGpus(), &context).ok());
  const Entries entries = {{"", "cpu"}, {std::string(100'000, '.'), "cpu"}};
  const absl::Status status = Place(builder.model(), {.entries = entries}, EightGpus(), &context).status();
  EXPECT_EQ(ErrorReason(status), Reason::kMemoryExhausted) << status;
}

TEST(ExplicitMap, TiedGroupFollowsItsFirstMember) {
  ModelBuilder model;
  model.M().Tie({"linear2.weight", "linear1.weight"});
  const Entries entries = {{"linear1", "0"}, {"batchnorm", "0"}, {"linear2", "1"}};
  EXPECT_EQ(DeviceOfTensor(model, entries, "linear2.weight"), "cuda:0");
  EXPECT_EQ(DeviceOfTensor(model, entries, "linear2.bias"), "cuda:1");
  const auto placement = PlaceBy(model, entries);
  ASSERT_TRUE(placement.ok());
  ASSERT_EQ(placement->warnings.size(), 1u);
  EXPECT_THAT(placement->warnings[0], HasSubstr("1 tied group"));
}

}  // namespace
}  // namespace keyload
