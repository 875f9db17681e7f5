// Lazy models, and keys that become resident and lazy again, one call after the other.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/time/clock.h"
#include "server/base/error.h"
#include "server/service/model_keys.h"
#include "tests/unit/service/loader_node.h"

namespace keyload {
namespace {

using testing::ElementsAre;

constexpr uint64_t kBytes = 1ull << 20;  // of each tensor; each layer is a segment

KeySelectionSpec Include(std::vector<std::string> globs) {
  return {.include = std::move(globs), .exclude = {}, .keys = {}};
}
KeySelectionSpec Named(std::vector<std::string> keys) {
  return {.include = {}, .exclude = {}, .keys = std::move(keys)};
}

class MaterializeTest : public testing::Test {
 protected:
  // layers.0 to layers.3, two tensors each, over two shards.
  static void Write(const LoaderNode& node) {
    std::vector<std::vector<TestTensor>> shards(2);
    for (int layer = 0; layer < 4; ++layer) {
      for (const char* part : {"a", "b"}) {
        shards[layer / 2].push_back({.name = "layers." + std::to_string(layer) + "." + part,
                                     .dtype = DType::kU8,
                                     .shape = {kBytes},
                                     .data = ""});
      }
    }
    WriteShardedCheckpoint(node.dir(), shards);
  }
  static LoadSpec LazySpec(const LoaderNode& node, const std::string& device = "cuda:0") {
    LoadSpec spec = node.Spec();
    spec.residency = LoadSpec::Residency::kLazy;
    spec.device_map.policy = device;
    return spec;
  }
  // Loads "m" lazily.
  void Load(const std::string& device = "cuda:0") {
    Write(node_);
    const absl::StatusOr<LoadReport> report = node_.Load(LazySpec(node_, device));
    ASSERT_TRUE(report.ok()) << report.status();
  }
  ModelInfo Info() { return *node_.registry().Info("m"); }
  MemoryState gpu() { return node_.gpu().account().state(); }

  LoaderNode node_;
};

TEST_F(MaterializeTest, ALazyLoadReadsNothingAndHoldsNothing) {
  Write(node_);
  const LoaderNode::Started load = node_.Start(LazySpec(node_));
  const absl::StatusOr<LoadReport> report = load.observer->WaitForEnd();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kComplete);
  EXPECT_EQ(report->keys.loaded, 0);
  EXPECT_EQ(report->keys.lazy, 8);
  EXPECT_EQ(report->bytes.selected, 8 * kBytes);
  EXPECT_EQ(report->bytes.read, 0);
  EXPECT_EQ(report->devices[0].tensors, 8);
  EXPECT_EQ(report->devices[0].reserved_bytes, 0);
  EXPECT_EQ(node_.readers_made(), 0);
  EXPECT_EQ(gpu().used + gpu().reserved, 0);
  EXPECT_EQ(Info().state, ModelState::kLazy);
  EXPECT_THAT(load.observer->events(), ElementsAre("accepted", "planned", "end"));
  absl::Duration sum;
  for (const Phase& phase : report->phases) sum += phase.duration;
  EXPECT_EQ(sum, report->total);
}

TEST_F(MaterializeTest, ALazyLoadMayPlanMoreThanFits) {
  LoaderNode node({.gpu_bytes = 4 * kBytes});
  Write(node);
  ASSERT_EQ(node.Load(LazySpec(node))->outcome, Outcome::kComplete);
  EXPECT_EQ(node.Materialize(Include({"layers.0.*"}))->outcome, Outcome::kComplete);
  EXPECT_EQ(ErrorReason(node.Materialize({}).status()), Reason::kDeviceOutOfMemory);
  EXPECT_EQ(node.registry().Info("m")->model->LiveKeys().loaded, 2);
  EXPECT_EQ(node.gpu().account().state().used, 2 * kBytes);
  EXPECT_EQ(node.gpu().account().state().reserved, 0);
  EXPECT_TRUE(node.ReadKey("m", "layers.0.b") == PatternBytes("layers.0.b", kBytes));
}

TEST_F(MaterializeTest, LimitsRejectALazyLoadAsAnyOther) {
  Write(node_);
  LoadSpec spec = LazySpec(node_);
  spec.expected.manifest = ManifestOf({"absent"}, {});
  spec.limits.max_missing = 0;
  EXPECT_EQ(node_.Load(spec)->outcome, Outcome::kRejected);
  EXPECT_EQ(ErrorReason(node_.registry().Info("m").status()), Reason::kModelNotFound);
}

TEST_F(MaterializeTest, ReservedNowTheMemoryIsKeptUntilTheModelIsGone) {
  Write(node_);
  LoadSpec spec = LazySpec(node_);
  spec.reserve_now = true;
  EXPECT_EQ(node_.Load(spec)->devices[0].reserved_bytes, 8 * kBytes);
  EXPECT_EQ(gpu().reserved, 8 * kBytes);
  ASSERT_TRUE(node_.Materialize(Include({"layers.1.*"})).ok());
  EXPECT_EQ(gpu().used, 2 * kBytes);
  EXPECT_EQ(gpu().reserved, 6 * kBytes);
  EXPECT_EQ(Info().model->LiveDevices()[0].reserved_bytes, 8 * kBytes);
  ASSERT_TRUE(node_.Unload("m").ok());
  EXPECT_EQ(gpu().used + gpu().reserved, 0);
}

TEST_F(MaterializeTest, ReservedNowItMustFit) {
  LoaderNode node({.gpu_bytes = 4 * kBytes});
  Write(node);
  LoadSpec spec = LazySpec(node);
  spec.reserve_now = true;
  EXPECT_EQ(node.Load(spec)->outcome, Outcome::kFailed);
}

TEST_F(MaterializeTest, ReserveIsForLazyLoads) {
  LoadSpec spec = node_.Spec();
  spec.reserve_now = true;
  EXPECT_EQ(ErrorDetails(node_.Load(spec).status())["field"], "spec.reserve");
}

TEST_F(MaterializeTest, ASelectionBecomesResidentAndNothingElseIsRead) {
  Load();
  const absl::StatusOr<LoadReport> report = node_.Materialize(Include({"layers.2.*"}));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kComplete);
  EXPECT_EQ(report->keys.expected, 8);
  EXPECT_EQ(report->keys.selected, 2);
  EXPECT_EQ(report->keys.not_selected, 6);
  EXPECT_EQ(report->keys.loaded, 2);
  EXPECT_EQ(report->keys.lazy, 0);
  EXPECT_EQ(report->bytes.selected, 2 * kBytes);
  EXPECT_EQ(report->bytes.read, 2 * kBytes);
  EXPECT_EQ(node_.reads().bytes(), 2 * kBytes);
  ASSERT_EQ(report->devices.size(), 1);
  EXPECT_EQ(report->devices[0].tensors, 2);
  EXPECT_EQ(report->devices[0].reserved_bytes, 2 * kBytes);
  EXPECT_EQ(report->devices[0].copied_bytes, 2 * kBytes);
  ASSERT_EQ(report->shards.size(), 1);
  EXPECT_EQ(report->shards[0].file, "model-00002-of-00002.safetensors");
  EXPECT_EQ(report->shards[0].read_bytes, 2 * kBytes);
  EXPECT_EQ(Info().state, ModelState::kPartial);
  EXPECT_EQ(Info().model->LiveKeys().loaded, 2);
  EXPECT_EQ(Info().model->LiveKeys().lazy, 6);
  EXPECT_EQ(gpu().used, 2 * kBytes);
  EXPECT_TRUE(node_.ReadKey("m", "layers.2.b") == PatternBytes("layers.2.b", kBytes));
  absl::Duration sum;
  std::vector<std::string> phases;
  for (const Phase& phase : report->phases) {
    sum += phase.duration;
    phases.push_back(phase.name);
  }
  EXPECT_THAT(phases, ElementsAre("queue", "plan", "reserve", "transfer", "publish"));
  EXPECT_EQ(sum, report->total);
}

TEST_F(MaterializeTest, TheGenerationAndTheAddressesStay) {
  Load();
  const uint64_t generation = Info().generation;
  ASSERT_TRUE(node_.Materialize(Named({"layers.0.a"})).ok());
  const auto tensor = Info().model->TensorOf(static_cast<uint32_t>(Info().model->FindKey("layers.0.a")));
  const std::shared_ptr<DeviceMemory> memory = Info().model->residency().Pin(tensor)->memory;
  const absl::StatusOr<LoadReport> rest = node_.Materialize({});
  ASSERT_TRUE(rest.ok());
  EXPECT_EQ(rest->generation, generation);
  EXPECT_EQ(rest->bytes.read, 7 * kBytes);
  EXPECT_EQ(Info().generation, generation);
  EXPECT_EQ(Info().model->residency().Pin(tensor)->memory, memory);
  EXPECT_EQ(Info().state, ModelState::kResident);
}

TEST_F(MaterializeTest, WhatIsResidentIsNotReadAgain) {
  Load();
  ASSERT_TRUE(node_.Materialize({}).ok());
  const absl::StatusOr<LoadReport> again = node_.Materialize({});
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->outcome, Outcome::kComplete);
  EXPECT_EQ(again->keys.loaded, 8);
  EXPECT_EQ(again->bytes.selected, 8 * kBytes);
  EXPECT_EQ(again->bytes.read, 0);
  EXPECT_TRUE(again->shards.empty());
}

TEST_F(MaterializeTest, ASegmentMayBeFilledInPart) {
  Load();
  ASSERT_TRUE(node_.Materialize(Named({"layers.3.b"})).ok());
  EXPECT_EQ(gpu().used, 2 * kBytes);
  EXPECT_EQ(node_.reads().bytes(), kBytes);
  EXPECT_EQ(Info().model->LiveKeys().loaded, 1);
  ASSERT_TRUE(node_.Materialize(Named({"layers.3.a"})).ok());
  EXPECT_EQ(gpu().used, 2 * kBytes);
  EXPECT_TRUE(node_.ReadKey("m", "layers.3.a") == PatternBytes("layers.3.a", kBytes));
  EXPECT_TRUE(node_.ReadKey("m", "layers.3.b") == PatternBytes("layers.3.b", kBytes));
}

TEST_F(MaterializeTest, MappedTensorsBecomeResidentInThePageCache) {
  Load("cpu");
  const absl::StatusOr<LoadReport> report = node_.Materialize(Include({"layers.0.*"}));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->bytes.mapped, 2 * kBytes);
  EXPECT_EQ(report->shards[0].engine, "mapped");
  EXPECT_EQ(Info().model->LiveDevices()[0].tensor_bytes, 2 * kBytes);
  EXPECT_EQ(Info().model->LiveDevices()[0].reserved_bytes, 0);
  EXPECT_EQ(Info().state, ModelState::kPartial);
}

TEST_F(MaterializeTest, KeysOnDiskStayLazy) {
  Load("disk");
  const absl::StatusOr<LoadReport> report = node_.Materialize({});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kComplete);
  EXPECT_EQ(report->keys.loaded, 0);
  EXPECT_EQ(report->keys.lazy, 8);
  EXPECT_EQ(node_.reads().calls(), 0);
  EXPECT_EQ(Info().state, ModelState::kLazy);
}

TEST_F(MaterializeTest, ATiedKeyBringsItsHolder) {
  WriteSafetensors(node_.dir() + "/model.safetensors",
                   {{.name = "embed", .dtype = DType::kF32, .shape = {64}, .data = ""}});
  LoadSpec spec = LazySpec(node_);
  spec.expected.manifest = ManifestOf({"embed", "head"}, {64}, {{"embed", {"head"}}});
  ASSERT_TRUE(node_.Load(spec).ok());
  const absl::StatusOr<LoadReport> report = node_.Materialize(Named({"head"}));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->keys.missing_tied, 1);
  EXPECT_EQ(Info().state, ModelState::kResident);
  EXPECT_EQ(node_.Evict(Named({"head"}))->tensors, 1);
  EXPECT_EQ(Info().state, ModelState::kLazy);
}

TEST_F(MaterializeTest, MissingKeysAreCountedAndLimited) {
  WriteSafetensors(node_.dir() + "/model.safetensors",
                   {{.name = "a.0", .dtype = DType::kF32, .shape = {64}, .data = ""}});
  LoadSpec spec = LazySpec(node_);
  spec.expected.manifest = ManifestOf({"a.0", "a.10", "a.9", "b"}, {64});
  ASSERT_EQ(node_.Load(spec)->outcome, Outcome::kIncomplete);
  const absl::StatusOr<LoadReport> report = node_.Materialize(Include({"a.*"}));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kIncomplete);
  EXPECT_THAT(report->missing_keys, ElementsAre("a.9", "a.10"));
  EXPECT_EQ(report->keys.loaded, 1);
  ASSERT_TRUE(node_.Evict({}).ok());
  const uint64_t bytes = node_.reads().bytes();
  const absl::StatusOr<LoadReport> rejected = node_.Materialize(Include({"a.*"}), {}, {.max_missing = 1});
  ASSERT_TRUE(rejected.ok());
  EXPECT_EQ(rejected->outcome, Outcome::kRejected);
  EXPECT_EQ(rejected->keys.lazy, 1);
  EXPECT_EQ(node_.reads().bytes(), bytes);
}

TEST_F(MaterializeTest, NamesMustBeKeysThatTheLoadSelected) {
  Write(node_);
  LoadSpec spec = LazySpec(node_);
  spec.select.exclude = {"layers.0.*"};
  ASSERT_TRUE(node_.Load(spec).ok());
  EXPECT_EQ(ErrorReason(node_.Materialize(Named({"layers.9.a"})).status()), Reason::kKeyNotFound);
  EXPECT_EQ(ErrorReason(node_.Materialize(Named({"layers.0.a"})).status()), Reason::kKeyNotResident);
  EXPECT_EQ(node_.Materialize(Include({"layers.0.*"}))->keys.selected, 0);
  EXPECT_EQ(ErrorReason(node_.Evict(Named({"layers.9.a"})).status()), Reason::kKeyNotFound);
}

TEST_F(MaterializeTest, AnUnknownModelIsNotFound) {
  EXPECT_EQ(ErrorReason(node_.Materialize({}).status()), Reason::kModelNotFound);
  EXPECT_EQ(ErrorReason(node_.Evict({}).status()), Reason::kModelNotFound);
}

TEST_F(MaterializeTest, WhileTheServerDrainsNothingIsMaterialized) {
  Load();
  node_.service().Drain();
  EXPECT_EQ(ErrorReason(node_.Materialize({}).status()), Reason::kDraining);
}

TEST_F(MaterializeTest, AFailureLeavesTheKeysLazy) {
  Load();
  node_.SetFaults("model-00001-of-00002.safetensors",
                  {.end_of_file_at = std::nullopt, .io_error_at = kBytes, .file = "model-00001-of-00002.safetensors"});
  const absl::Status status = node_.Materialize(Include({"layers.0.*"})).status();
  EXPECT_EQ(ErrorReason(status), Reason::kIoError);
  EXPECT_THAT(ErrorDetails(status)["load"], testing::StartsWith("load-"));
  EXPECT_EQ(Info().state, ModelState::kLazy);
  EXPECT_EQ(gpu().used + gpu().reserved, 0);
  node_.ClearFaults();
  EXPECT_TRUE(node_.Materialize(Include({"layers.0.*"})).ok());
}

TEST_F(MaterializeTest, CancelledOrTooLateItReadsNothing) {
  Load();
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(ErrorReason(node_.Materialize({}, {.stop = stop.get_token()}).status()), Reason::kLoadCancelled);
  EXPECT_EQ(ErrorReason(node_.Materialize({}, {.stop = {}, .deadline = absl::Now()}).status()),
            Reason::kDeadlineExceeded);
  EXPECT_EQ(node_.reads().calls(), 0);
  EXPECT_EQ(Info().state, ModelState::kLazy);
}

TEST_F(MaterializeTest, AFileThatChangedSinceThePlanIsNotRead) {
  Load();
  std::filesystem::permissions(node_.dir() + "/model-00001-of-00002.safetensors", std::filesystem::perms(0600));
  const absl::Status status = node_.Materialize({}).status();
  EXPECT_EQ(ErrorReason(status), Reason::kCheckpointChanged);
  EXPECT_EQ(ErrorDetails(status)["file"], "model-00001-of-00002.safetensors");
  EXPECT_EQ(node_.reads().calls(), 0);
  EXPECT_EQ(gpu().used + gpu().reserved, 0);
  EXPECT_EQ(node_.ReadKey("m", "layers.0.a"), "");
  EXPECT_TRUE(node_.Materialize(Include({"layers.3.*"})).ok());  // in the other shard
}

TEST_F(MaterializeTest, ReadingALazyKeyMakesItResident) {
  Load();
  EXPECT_TRUE(node_.ReadKey("m", "layers.1.a") == PatternBytes("layers.1.a", kBytes));
  EXPECT_EQ(Info().model->LiveKeys().loaded, 1);
  EXPECT_EQ(node_.reads().bytes(), kBytes);
  EXPECT_TRUE(node_.ReadKey("m", "layers.1.a") == PatternBytes("layers.1.a", kBytes));
  EXPECT_EQ(node_.reads().bytes(), kBytes);
}

TEST_F(MaterializeTest, ListsWhatIsResidentNow) {
  Load();
  ASSERT_TRUE(node_.Materialize(Named({"layers.1.a"})).ok());
  const ModelHandle model = *node_.registry().Use("m");
  const std::vector<ListedKey> keys = ListKeys(*model, KeySelection()).value();
  for (const ListedKey& key : keys) {
    EXPECT_EQ(key.state, key.key == "layers.1.a" ? ListedState::kResident : ListedState::kLazy) << key.key;
    EXPECT_EQ(key.device, "cuda:0");
  }
}

TEST_F(MaterializeTest, EvictGivesMemoryBackAndWhatIsLeftStays) {
  Load();
  ASSERT_TRUE(node_.Materialize({}).ok());
  const absl::StatusOr<Residency::Evicted> evicted = node_.Evict(Include({"layers.1.*", "layers.2.a"}));
  ASSERT_TRUE(evicted.ok());
  EXPECT_EQ(evicted->tensors, 3);
  EXPECT_EQ(evicted->bytes, 2 * kBytes);
  EXPECT_EQ(gpu().used, 6 * kBytes);
  EXPECT_EQ(Info().state, ModelState::kPartial);
  EXPECT_TRUE(node_.ReadKey("m", "layers.2.b") == PatternBytes("layers.2.b", kBytes));
  EXPECT_EQ(node_.Evict({})->tensors, 5);
  EXPECT_EQ(gpu().used, 0);
  EXPECT_EQ(Info().state, ModelState::kLazy);
}

TEST_F(MaterializeTest, AnEagerModelCanBeEvictedAndMaterializedAgain) {
  Write(node_);
  ASSERT_TRUE(node_.Load(node_.Spec()).ok());
  EXPECT_EQ(node_.Evict({})->bytes, 8 * kBytes);
  EXPECT_EQ(gpu().used, 0);
  EXPECT_EQ(node_.Materialize({})->keys.loaded, 8);
  EXPECT_TRUE(node_.ReadKey("m", "layers.0.a") == PatternBytes("layers.0.a", kBytes));
}

TEST_F(MaterializeTest, TheSameRequestAnswersWithWhatIsResidentNow) {
  Load();
  ASSERT_TRUE(node_.Materialize(Named({"layers.1.a"})).ok());
  const absl::StatusOr<LoadReport> report = node_.Load(LazySpec(node_));
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->keys.loaded, 1);
  EXPECT_EQ(report->keys.lazy, 7);
  EXPECT_EQ(report->devices[0].reserved_bytes, 2 * kBytes);
}

}  // namespace
}  // namespace keyload
