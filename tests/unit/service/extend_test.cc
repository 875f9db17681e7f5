// Loads that make a resident model wider.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "server/base/error.h"
#include "server/service/model_keys.h"
#include "tests/unit/service/extend_case.h"

namespace keyload {
namespace {

using testing::ElementsAre;

TEST_F(ExtendTest, OnANewNameItIsALoad) {
  const absl::StatusOr<LoadReport> report = node_.Load(Spec({"layers.0.*"}));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->keys.loaded, 2);
}

TEST_F(ExtendTest, ReadsOnlyTheNewKeysAndLeavesTheOthersWhereTheyAre) {
  const absl::StatusOr<LoadReport> first = node_.Load(Spec({"layers.0.*"}));
  ASSERT_TRUE(first.ok());
  const std::shared_ptr<DeviceMemory> memory = MemoryOf("layers.0.b");
  const uint64_t read = node_.reads().bytes();
  const LoaderNode::Started load = node_.Start(Spec({"layers.{1..2}.*"}));
  const absl::StatusOr<LoadReport> second = load.observer->WaitForEnd();
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->outcome, Outcome::kComplete) << second->error;
  EXPECT_EQ(second->keys.selected, 6);
  EXPECT_EQ(second->keys.not_selected, 2);
  EXPECT_EQ(second->keys.loaded, 6);
  EXPECT_EQ(second->bytes.read, 4 * kBytes);
  EXPECT_EQ(node_.reads().bytes() - read, 4 * kBytes);
  EXPECT_GT(second->generation, first->generation);
  EXPECT_EQ(Info().generation, second->generation);
  EXPECT_EQ(Info().state, ModelState::kResident);
  EXPECT_EQ(MemoryOf("layers.0.b"), memory);
  EXPECT_EQ(gpu().used, 6 * kBytes);
  EXPECT_EQ(gpu().reserved, 0);
  EXPECT_EQ(Info().model->LiveDevices()[0].tensors, 6);
  EXPECT_THAT(load.observer->events(), ElementsAre("accepted", "planned", "end"));
  ExpectBytes({"layers.0.a", "layers.0.b", "layers.1.a", "layers.2.b"});
}

TEST_F(ExtendTest, TheSelectionIsTheUnionAfterEach) {
  for (const char* glob : {"layers.2.*", "layers.0.a", "*.b"}) ASSERT_TRUE(node_.Load(Spec({glob})).ok());
  std::vector<std::string> resident;
  const std::vector<ListedKey> keys = ListKeys(*Info().model, KeySelection()).value();
  for (const ListedKey& key : keys) {
    if (key.state == ListedState::kResident) resident.emplace_back(key.key);
  }
  EXPECT_THAT(resident,
              ElementsAre("layers.0.a", "layers.0.b", "layers.1.b", "layers.2.a", "layers.2.b", "layers.3.b"));
  ExpectBytes(resident);
}

TEST_F(ExtendTest, ReuseAnswersAnotherSelectionWithoutLoading) {
  ASSERT_TRUE(node_.Load(Spec({"layers.0.*"})).ok());
  const absl::StatusOr<LoadReport> report = node_.Load(Spec({"layers.1.*"}, IfExists::kReuse));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->keys.selected, 2);
  EXPECT_EQ(gpu().used, 2 * kBytes);
}

TEST_F(ExtendTest, AnotherRequestIsRefused) {
  ASSERT_TRUE(node_.Load(Spec({"layers.0.*"})).ok());
  LoadSpec other = Spec({"layers.1.*"});
  other.fingerprint = "other";
  EXPECT_EQ(ErrorReason(node_.Load(other).status()), Reason::kModelExists);
  EXPECT_EQ(Info().state, ModelState::kResident);
}

TEST_F(ExtendTest, LazilyItReadsNothing) {
  ASSERT_TRUE(node_.Load(Spec({"layers.0.*"})).ok());
  const uint64_t read = node_.reads().bytes();
  const absl::StatusOr<LoadReport> report = node_.Load(Lazy({"layers.3.*"}));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->keys.loaded, 2);
  EXPECT_EQ(report->keys.lazy, 2);
  EXPECT_EQ(node_.reads().bytes(), read);
  EXPECT_EQ(Info().state, ModelState::kPartial);
  EXPECT_EQ(node_.Materialize({})->keys.loaded, 4);
  ExpectBytes({"layers.0.a", "layers.3.a", "layers.3.b"});
}

TEST_F(ExtendTest, LazyKeysOfTheModelStayLazy) {
  ASSERT_TRUE(node_.Load(Lazy({"layers.0.*"})).ok());
  ASSERT_TRUE(node_.Load(Spec({"layers.1.*"})).ok());
  EXPECT_EQ(Info().model->LiveKeys().loaded, 2);
  EXPECT_EQ(Info().model->LiveKeys().lazy, 2);
  ExpectBytes({"layers.0.a", "layers.1.b"});
}

TEST_F(ExtendTest, AFailureLeavesTheModelAsItWas) {
  const absl::StatusOr<LoadReport> first = node_.Load(Spec({"layers.0.*"}));
  node_.SetFaults("model.safetensors", {.end_of_file_at = std::nullopt, .io_error_at = 5 * kBytes, .file = "f"});
  const absl::StatusOr<LoadReport> report = node_.Load(Spec({}));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kFailed);
  EXPECT_EQ(Info().generation, first->generation);
  EXPECT_EQ(Info().state, ModelState::kResident);
  EXPECT_EQ(Info().model->LiveKeys().loaded, 2);
  EXPECT_EQ(Info().model->LiveKeys().lazy, 0);
  EXPECT_EQ(gpu().used, 2 * kBytes);
  EXPECT_EQ(gpu().reserved, 0);
  node_.ClearFaults();
  EXPECT_EQ(node_.Load(Spec({}))->keys.loaded, 8);
}

TEST_F(ExtendTest, WithoutMemoryTheModelIsAsItWas) {
  LoaderNode node({.gpu_bytes = 3 * kBytes});
  WriteSafetensors(node.dir() + "/model.safetensors", {Tensor(0, "a"), Tensor(0, "b"), Tensor(1, "a"), Tensor(1, "b")});
  LoadSpec spec = node.Spec();
  spec.select.include = {"layers.0.*"};
  ASSERT_TRUE(node.Load(spec).ok());
  spec.select.include = {"layers.1.*"};
  spec.if_exists = IfExists::kExtend;
  const absl::StatusOr<LoadReport> report = node.Load(spec);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(ErrorReason(report->error), Reason::kDeviceOutOfMemory);
  EXPECT_EQ(node.gpu().account().state().used, 2 * kBytes);
  EXPECT_EQ(node.gpu().account().state().reserved, 0);
  EXPECT_TRUE(node.ReadKey("m", "layers.0.a") == PatternBytes("layers.0.a", kBytes));
}

TEST_F(ExtendTest, ACheckpointThatChangedIsRefused) {
  ASSERT_TRUE(node_.Load(Spec({"layers.0.*"})).ok());
  std::filesystem::permissions(node_.dir() + "/model.safetensors", std::filesystem::perms(0600));
  EXPECT_EQ(ErrorReason(node_.Load(Spec({"layers.1.*"})).status()), Reason::kCheckpointChanged);
  EXPECT_EQ(Info().state, ModelState::kResident);
}

TEST_F(ExtendTest, WhileItRunsTheModelIsReadMaterializedAndEvicted) {
  ASSERT_TRUE(node_.Load(Lazy({"layers.0.*", "layers.1.*"})).ok());
  ASSERT_TRUE(node_.Materialize({.include = {"layers.0.*"}, .exclude = {}, .keys = {}}).ok());
  node_.gpu().HoldCopies();
  const uint64_t copies = node_.gpu().copies_started();
  const LoaderNode::Started load = node_.Start(Spec({"layers.2.*"}));
  node_.gpu().WaitForCopiesStarted(copies + 1);
  EXPECT_EQ(Info().state, ModelState::kReplacing);
  ExpectBytes({"layers.0.a"});
  EXPECT_EQ(node_.Evict({.include = {"layers.0.*"}, .exclude = {}, .keys = {}})->bytes, 2 * kBytes);
  EXPECT_EQ(ErrorReason(node_.Load(Spec({"layers.3.*"})).status()), Reason::kModelBusy);
  EXPECT_EQ(ErrorReason(node_.Unload("m").status()), Reason::kModelBusy);
  node_.gpu().ReleaseCopies();
  ASSERT_TRUE(load.observer->WaitForEnd().ok());
  EXPECT_EQ(Info().model->LiveKeys().loaded, 2);
  EXPECT_EQ(Info().model->LiveKeys().lazy, 4);
  ExpectBytes({"layers.0.a", "layers.1.b", "layers.2.a"});
}

TEST_F(ExtendTest, WhoHoldsTheGenerationBeforeSeesTheSameResidency) {
  ASSERT_TRUE(node_.Load(Spec({"layers.0.*"})).ok());
  ModelHandle before = *node_.registry().Use("m");
  ASSERT_TRUE(node_.Load(Spec({"layers.1.*"})).ok());
  ASSERT_TRUE(node_.Evict({}).ok());
  EXPECT_EQ(gpu().used, 0);
  const auto key = static_cast<uint32_t>(before->FindKey("layers.0.a"));
  EXPECT_TRUE(node_.service().OpenTensor(*before, key, {}).ok());
  EXPECT_EQ(Info().model->LiveKeys().loaded, 1);
  before.reset();
  ASSERT_TRUE(node_.Unload("m").ok());
  EXPECT_EQ(gpu().used, 0);
}

TEST_F(ExtendTest, ThePolicyPlacesOnlyTheNewKeys) {
  LoadSpec spec = Spec({"layers.0.*"});
  spec.device_map.policy = "sequential";
  spec.device_map.max_memory = {{"cpu", 64 * kBytes}, {"cuda:0", 3 * kBytes}};
  ASSERT_TRUE(node_.Load(spec).ok());
  const auto device_of = [&](std::string_view name) {
    const std::vector<ListedKey> keys = ListKeys(*Info().model, KeySelection()).value();
    for (const ListedKey& key : keys) {
      if (key.key == name) return std::string(key.device);
    }
    return std::string();
  };
  const std::string first = device_of("layers.0.a");
  spec.select.include = {"layers.1.*", "layers.2.*"};
  const absl::StatusOr<LoadReport> report = node_.Load(spec);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kComplete) << report->error;
  EXPECT_EQ(device_of("layers.0.a"), first);
  std::map<std::string, uint64_t> tensors;
  for (const DeviceUse& use : Info().model->LiveDevices()) tensors[use.device] = use.tensors;
  EXPECT_EQ(tensors["cpu"] + tensors["cuda:0"], 6);
  for (const MapEntry& entry : report->device_map)
    EXPECT_EQ(entry.device, device_of(entry.module + ".a")) << entry.module;
  ExpectBytes({"layers.0.b", "layers.1.a", "layers.2.b"});
}

// Tensors of 1025 bytes take 1280 on the device: the policy finds room for all of them, the memory has none.
TEST_F(ExtendTest, APlanWhosePaddingDoesNotFitIsMadeAgain) {
  LoaderNode node({.gpu_bytes = 1'200'000});
  std::vector<TestTensor> tensors;
  for (int i = 0; i < 1000; ++i) {
    tensors.push_back({.name = "k" + std::to_string(i), .dtype = DType::kU8, .shape = {1025}, .data = ""});
  }
  WriteSafetensors(node.dir() + "/model.safetensors", tensors);
  LoadSpec spec = node.Spec();
  spec.device_map.policy = "auto";
  spec.if_exists = IfExists::kExtend;
  spec.select.include = {"k{0..99}"};
  ASSERT_TRUE(node.Load(spec).ok());
  const uint64_t used = node.gpu().account().state().used;
  spec.select.include.clear();
  const absl::StatusOr<LoadReport> report = node.Load(spec);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kComplete) << report->error;
  EXPECT_EQ(report->keys.loaded, 1000);
  EXPECT_GT(node.gpu().account().state().used, used + 500'000);
  for (const char* key : {"k0", "k99", "k100", "k999"}) {
    EXPECT_TRUE(node.ReadKey("m", key) == PatternBytes(key, 1025)) << key;
  }
}

TEST_F(ExtendTest, AHundredTimesNothingOfTheEarlierGenerationsIsKept) {
  std::vector<TestTensor> tensors;
  for (int i = 0; i < 101; ++i) {
    tensors.push_back({.name = "k" + std::to_string(i), .dtype = DType::kU8, .shape = {1}, .data = ""});
  }
  WriteSafetensors(node_.dir() + "/model.safetensors", tensors);
  ASSERT_TRUE(node_.Load(Spec({"k0"})).ok());
  const std::weak_ptr<const ResidentModel> first = *node_.registry().Use("m");
  const std::weak_ptr<const KeyReport> keys = Info().model->content().keys;
  for (int i = 1; i < 101; ++i) ASSERT_TRUE(node_.Load(Spec({"k" + std::to_string(i)})).ok());
  EXPECT_TRUE(first.expired());
  EXPECT_TRUE(keys.expired());
  EXPECT_EQ(Info().model->LiveKeys().loaded, 101);
  EXPECT_TRUE(node_.ReadKey("m", "k77") == PatternBytes("k77", 1));
}

}  // namespace
}  // namespace keyload
