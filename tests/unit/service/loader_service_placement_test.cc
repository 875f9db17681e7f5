// Where the bytes go: planning again, tied copies, keys that stay in their file.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/base/error.h"
#include "tests/unit/service/loader_node.h"

namespace keyload {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr uint64_t kLayerBytes = 4ull << 20;

void WriteLayers(const LoaderNode& node, int layers) {
  std::vector<TestTensor> tensors;
  for (int i = 0; i < layers; ++i) {
    tensors.push_back(
        {.name = "layers." + std::to_string(i) + ".weight", .dtype = DType::kU8, .shape = {kLayerBytes}, .data = ""});
  }
  WriteSafetensors(node.dir() + "/model.safetensors", tensors);
}

// Tensors of 1025 bytes take 1280 on a device: 1000 of them fit into the GPU by their sizes, but not with their
// padding.
void WriteUneven(const LoaderNode& node) {
  std::vector<TestTensor> tensors;
  for (int i = 0; i < 1000; ++i) {
    tensors.push_back(
        {.name = "layers." + std::to_string(i) + ".weight", .dtype = DType::kU8, .shape = {1025}, .data = ""});
  }
  WriteSafetensors(node.dir() + "/model.safetensors", tensors);
}

TEST(LoaderServicePlacement, APlanWhosePaddingDoesNotFitIsMadeAgain) {
  LoaderNode node({.gpu_bytes = 1'200'000});
  WriteUneven(node);
  LoadSpec spec = node.Spec();
  spec.device_map.policy = "auto";
  const absl::StatusOr<LoadReport> report = node.Load(spec);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kComplete) << report->error;
  EXPECT_EQ(report->keys.loaded, 1000);
  EXPECT_GT(node.gpu().account().state().used, 600'000);
}

TEST(LoaderServicePlacement, APlanThatIsMadeAgainIsToldOnce) {
  LoaderNode node({.gpu_bytes = 1'200'000});
  WriteUneven(node);
  LoadSpec spec = node.Spec();
  spec.device_map.policy = "auto";
  const LoaderNode::Started load = node.Start(spec);
  ASSERT_TRUE(load.observer->WaitForEnd().ok());
  EXPECT_THAT(load.observer->events(), ElementsAre("accepted", "planned", "end"));
}

TEST(LoaderServicePlacement, AnExplicitDeviceIsNotPlannedAgain) {
  LoaderNode node({.gpu_bytes = 2 * kLayerBytes});
  WriteLayers(node, 3);
  const absl::StatusOr<LoadReport> report = node.Load(node.Spec());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kFailed);
  EXPECT_EQ(ErrorReason(report->error), Reason::kDeviceOutOfMemory);
}

TEST(LoaderServicePlacement, TheReportIsThatOfThePlanThatWasTaken) {
  LoaderNode node({.gpu_bytes = 1'200'000});
  WriteUneven(node);
  LoadSpec spec = node.Spec();
  spec.device_map.policy = "auto";
  const absl::StatusOr<LoadReport> report = node.Load(spec);
  ASSERT_TRUE(report.ok()) << report.status();
  ASSERT_FALSE(report->devices.empty());
  EXPECT_EQ(report->devices[0].device, "cuda:0");
  EXPECT_EQ(report->devices[0].reserved_bytes, node.gpu().account().state().used);
}

LoadSpec TiedSpec(const LoaderNode& node) {
  LoadSpec spec = node.Spec();
  spec.expected.manifest = ManifestOf({"a.weight", "b.weight"}, {1024}, {{"a.weight", {"b.weight"}}});
  return spec;
}

void WriteTied(const LoaderNode& node, const std::string& second) {
  WriteSafetensors(node.dir() + "/model.safetensors",
                   {{.name = "a.weight", .dtype = DType::kF32, .shape = {1024}, .data = PatternBytes("one", 4096)},
                    {.name = "b.weight", .dtype = DType::kF32, .shape = {1024}, .data = PatternBytes(second, 4096)}});
}

TEST(LoaderServicePlacement, EqualTiedCopiesShareTheMemoryOfOne) {
  LoaderNode node;
  WriteTied(node, "one");
  const absl::StatusOr<LoadReport> report = node.Load(TiedSpec(node));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kComplete) << report->error;
  EXPECT_EQ(report->keys.tied_conflicts, 0);
  EXPECT_EQ(node.gpu().account().state().used, 4096);
  EXPECT_TRUE(node.ReadKey("m", "a.weight") == PatternBytes("one", 4096));
  EXPECT_TRUE(node.ReadKey("m", "b.weight") == PatternBytes("one", 4096));
}

TEST(LoaderServicePlacement, DifferentTiedCopiesAreBothKeptAndWarnedAbout) {
  LoaderNode node;
  WriteTied(node, "two");
  const absl::StatusOr<LoadReport> report = node.Load(TiedSpec(node));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kComplete);
  EXPECT_EQ(report->keys.tied_conflicts, 1);
  EXPECT_THAT(report->warnings, testing::Contains(testing::AllOf(HasSubstr("a.weight"), HasSubstr("b.weight"))));
  EXPECT_EQ(node.gpu().account().state().used, 8192);
  EXPECT_TRUE(node.ReadKey("m", "a.weight") == PatternBytes("one", 4096));
  EXPECT_TRUE(node.ReadKey("m", "b.weight") == PatternBytes("two", 4096));
}

TEST(LoaderServicePlacement, ATiedKeyThatIsNotStoredReadsItsSource) {
  LoaderNode node;
  WriteSafetensors(node.dir() + "/model.safetensors",
                   {{.name = "a.weight", .dtype = DType::kF32, .shape = {1024}, .data = PatternBytes("one", 4096)}});
  const absl::StatusOr<LoadReport> report = node.Load(TiedSpec(node));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->keys.missing_tied, 1);
  EXPECT_EQ(report->outcome, Outcome::kComplete);
  EXPECT_TRUE(node.ReadKey("m", "b.weight") == PatternBytes("one", 4096));
}

TEST(LoaderServicePlacement, EqualTiedCopiesInTwoMappedShardsReadTheSame) {
  LoaderNode node;
  WriteShardedCheckpoint(
      node.dir(), {{{.name = "other", .dtype = DType::kF32, .shape = {64}, .data = ""},
                    {.name = "a.weight", .dtype = DType::kF32, .shape = {1024}, .data = PatternBytes("one", 4096)}},
                   {{.name = "b.weight", .dtype = DType::kF32, .shape = {1024}, .data = PatternBytes("one", 4096)},
                    {.name = "more", .dtype = DType::kF32, .shape = {64}, .data = ""}}});
  LoadSpec spec = TiedSpec(node);
  spec.device_map.policy = "cpu";
  const absl::StatusOr<LoadReport> report = node.Load(spec);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->bytes.mapped, 8192);
  EXPECT_TRUE(node.ReadKey("m", "a.weight") == PatternBytes("one", 4096));
  EXPECT_TRUE(node.ReadKey("m", "b.weight") == PatternBytes("one", 4096));
}

TEST(LoaderServicePlacement, MappedTensorsTakeNoDeviceMemory) {
  LoaderNode node;
  WriteLayers(node, 2);
  LoadSpec spec = node.Spec();
  spec.device_map.policy = "cpu";
  const absl::StatusOr<LoadReport> report = node.Load(spec);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->bytes.mapped, 2 * kLayerBytes);
  EXPECT_EQ(node.service().devices().Find("cpu")->account().state().used, 0);
  EXPECT_TRUE(node.ReadKey("m", "layers.1.weight") == PatternBytes("layers.1.weight", kLayerBytes));
}

TEST(LoaderServicePlacement, KeysOnDiskAreLazyAndReadFromTheFile) {
  LoaderNode node;
  WriteLayers(node, 2);
  LoadSpec spec = node.Spec();
  spec.device_map.policy.clear();
  spec.device_map.entries = {{"layers.0", "cuda:0"}, {"layers.1", "disk"}};
  const absl::StatusOr<LoadReport> report = node.Load(spec);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kComplete);
  EXPECT_EQ(report->keys.loaded, 1);
  EXPECT_EQ(report->keys.lazy, 1);
  EXPECT_EQ(report->bytes.read, kLayerBytes);
  EXPECT_EQ(node.registry().Info("m")->state, ModelState::kPartial);
  EXPECT_TRUE(node.ReadKey("m", "layers.1.weight") == PatternBytes("layers.1.weight", kLayerBytes));
}

TEST(LoaderServicePlacement, AModelWhollyOnDiskReadsNothing) {
  LoaderNode node;
  WriteLayers(node, 2);
  LoadSpec spec = node.Spec();
  spec.device_map.policy = "disk";
  const absl::StatusOr<LoadReport> report = node.Load(spec);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->keys.lazy, 2);
  EXPECT_EQ(report->bytes.read, 0);
  EXPECT_EQ(node.registry().Info("m")->state, ModelState::kLazy);
}

TEST(LoaderServicePlacement, AMapThatLeavesAKeyOutIsRefused) {
  LoaderNode node;
  WriteLayers(node, 2);
  LoadSpec spec = node.Spec();
  spec.device_map.policy.clear();
  spec.device_map.entries = {{"layers.0", "cuda:0"}};
  EXPECT_EQ(ErrorReason(node.Load(spec).status()), Reason::kDeviceMapIncomplete);
  EXPECT_EQ(ErrorReason(node.registry().Info("m").status()), Reason::kModelNotFound);
}

}  // namespace
}  // namespace keyload
