// Loads that make a resident model wider.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "server/base/error.h"
#include "server/service/model_keys.h"
#include "tests/unit/service/loader_node.h"

namespace keyload {
namespace {

using testing::ElementsAre;

constexpr uint64_t kBytes = 1ull << 20;  // of each tensor; each layer is a segment

class ExtendTest : public testing::Test {
 protected:
  ExtendTest() {
    std::vector<TestTensor> tensors;
    for (int layer = 0; layer < 4; ++layer) {
      for (const char* part : {"a", "b"}) tensors.push_back(Tensor(layer, part));
    }
    WriteSafetensors(node_.dir() + "/model.safetensors", tensors);
  }
  static TestTensor Tensor(int layer, const std::string& part) {
    return {.name = "layers." + std::to_string(layer) + "." + part, .dtype = DType::kU8, .shape = {kBytes}, .data = ""};
  }
  LoadSpec Spec(std::vector<std::string> include, IfExists if_exists = IfExists::kExtend) {
    LoadSpec spec = node_.Spec();
    spec.select.include = std::move(include);
    spec.if_exists = if_exists;
    return spec;
  }
  LoadSpec Lazy(std::vector<std::string> include) {
    LoadSpec spec = Spec(std::move(include));
    spec.residency = LoadSpec::Residency::kLazy;
    return spec;
  }
  ModelInfo Info() { return *node_.registry().Info("m"); }
  std::shared_ptr<DeviceMemory> MemoryOf(const std::string& key) {
    const ModelHandle model = *node_.registry().Use("m");
    const std::optional<Segment> segment =
        model->residency().Pin(model->TensorOf(static_cast<uint32_t>(model->FindKey(key))));
    return segment ? segment->memory : nullptr;
  }
  MemoryState gpu() { return node_.gpu().account().state(); }
  void ExpectBytes(const std::vector<std::string>& keys) {
    for (const std::string& key : keys) EXPECT_TRUE(node_.ReadKey("m", key) == PatternBytes(key, kBytes)) << key;
  }

  LoaderNode node_;
};

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
  for (const ListedKey& key : ListKeys(*Info().model, KeySelection())) {
    if (key.state == ListedState::kResident) resident.emplace_back(key.key);
  }
  EXPECT_THAT(resident,
              ElementsAre("layers.0.a", "layers.0.b", "layers.1.b", "layers.2.a", "layers.2.b", "layers.3.b"));
  ExpectBytes(resident);
}

TEST_F(ExtendTest, WithNothingNewTheModelAnswers) {
  const absl::StatusOr<LoadReport> first = node_.Load(Spec({"layers.0.*"}));
  const absl::StatusOr<LoadReport> again = node_.Load(Spec({"layers.0.a"}));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->generation, first->generation);
  EXPECT_EQ(again->load, first->load);
  EXPECT_EQ(Info().state, ModelState::kResident);
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
  EXPECT_EQ(ErrorReason(node_.service().Unload("m", {}).status()), Reason::kModelBusy);
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
  ASSERT_TRUE(node_.service().Unload("m", {}).ok());
  EXPECT_EQ(gpu().used, 0);
}

TEST_F(ExtendTest, ThePolicyPlacesOnlyTheNewKeys) {
  LoadSpec spec = Spec({"layers.0.*"});
  spec.device_map.policy = "sequential";
  spec.device_map.max_memory = {{"cpu", 64 * kBytes}, {"cuda:0", 3 * kBytes}};
  ASSERT_TRUE(node_.Load(spec).ok());
  const auto device_of = [&](std::string_view name) {
    for (const ListedKey& key : ListKeys(*Info().model, KeySelection())) {
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

TEST_F(ExtendTest, ATiedKeyThatComesLaterHasTheBytesOfItsGroup) {
  LoadSpec spec = Spec({"layers.0.a"});
  spec.expected.manifest = [] {
    auto manifest =
        std::make_shared<Manifest>(*ManifestOf({"layers.0.a", "head"}, {kBytes}, {{"layers.0.a", {"head"}}}));
    for (TensorSpec& tensor : manifest->tensors) tensor.dtype = DType::kU8;
    EXPECT_TRUE(ValidateManifest(*manifest).ok());
    return manifest;
  }();
  ASSERT_TRUE(node_.Load(spec).ok());
  const uint64_t used = gpu().used;
  spec.select.include = {"head"};
  const absl::StatusOr<LoadReport> report = node_.Load(spec);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->keys.missing_tied, 1);
  EXPECT_EQ(gpu().used, used);
  const auto key = static_cast<uint32_t>(Info().model->FindKey("head"));
  EXPECT_EQ(Info().model->TensorOf(key),
            Info().model->TensorOf(static_cast<uint32_t>(Info().model->FindKey("layers.0.a"))));
}

}  // namespace
}  // namespace keyload
