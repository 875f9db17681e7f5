#include "server/service/expected_keys.h"

#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "tests/unit/service/loader_node.h"

namespace keyload {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::Field;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

// A template with the keys 0 to layers - 1, and a checkpoint with the keys 0 and other.
class ExpectedFromConfig : public testing::Test {
 protected:
  ExpectedFromConfig() {
    Write("templates/toy.toml",
          "tree = '''\n{0..layers - 1} [2]\n'''\n[heads]\nToyModel = 'base'\n[config]\nlayers = 'required'\n");
    WriteSafetensors(node_.dir() + "/model.safetensors",
                     {{.name = "0", .shape = {2}}, {.name = "other", .shape = {2}}});
  }
  void Write(const std::string& name, std::string_view text) {
    const std::filesystem::path path = std::filesystem::path(node_.dir()) / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  absl::StatusOr<LoadReport> Plan(ExpectedSpec::From from = ExpectedSpec::From::kDefault) {
    LoadSpec spec = node_.Spec();
    spec.expected.from = from;
    return node_.service().Plan(std::move(spec), {});
  }
  void ExpectOwnKeys(std::string_view warning) {
    const absl::StatusOr<LoadReport> report = Plan();
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->expected_from, ExpectedFrom::kCheckpoint);
    EXPECT_EQ(report->keys.expected, 2u);
    if (warning.empty()) {
      EXPECT_THAT(report->warnings, IsEmpty());
    } else {
      EXPECT_THAT(report->warnings, ElementsAre(HasSubstr(std::string(warning))));
      EXPECT_THAT(report->warnings[0], HasSubstr("the expected keys are the checkpoint's own: "));
    }
  }
  Reason RefusedFromConfig() { return ErrorReason(Plan(ExpectedSpec::From::kConfig).status()); }

  LoaderNode node_;
};

constexpr std::string_view kTwoLayers = R"({"model_type": "toy", "layers": 2})";

TEST_F(ExpectedFromConfig, WhatParsingTakesIsCounted) {
  std::string json = R"({"model_type": "toy", "layers": 2, "list": [0)";
  for (int i = 0; i < 200'000; ++i) json += ",0";
  Write("config.json", json + "]}");
  RequestContext context;
  context.heap = std::make_shared<RequestHeap>(std::make_shared<HeapAccount>(16 << 20));
  const absl::Status status = node_.service().Plan(node_.Spec(), context).status();
  EXPECT_EQ(ErrorReason(status), Reason::kMemoryExhausted) << status;
  EXPECT_TRUE(Plan().ok());
}

TEST_F(ExpectedFromConfig, IsWhatARequestWithoutAWordOnItGets) {
  Write("config.json", kTwoLayers);
  for (const auto from : {ExpectedSpec::From::kDefault, ExpectedSpec::From::kConfig}) {
    const absl::StatusOr<LoadReport> report = Plan(from);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->expected_from, ExpectedFrom::kConfig);
    EXPECT_THAT(report->missing_keys, ElementsAre("1"));
    EXPECT_THAT(report->unexpected_keys, ElementsAre("other"));
    EXPECT_THAT(report->phases, Contains(Field(&Phase::name, "expected")));
  }
}
TEST_F(ExpectedFromConfig, GivesWayToAManifestAndToTheCheckpoint) {
  Write("config.json", kTwoLayers);
  EXPECT_EQ(Plan(ExpectedSpec::From::kCheckpoint)->expected_from, ExpectedFrom::kCheckpoint);
  LoadSpec spec = node_.Spec();
  spec.expected.manifest = ManifestOf({"other"}, {2});
  const absl::StatusOr<LoadReport> report = node_.service().Plan(std::move(spec), {});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->expected_from, ExpectedFrom::kManifest);
  EXPECT_EQ(report->keys.expected, 1u);
}
TEST_F(ExpectedFromConfig, NeedsAConfig) {
  ExpectOwnKeys("");
  const absl::Status status = Plan(ExpectedSpec::From::kConfig).status();
  EXPECT_EQ(ErrorReason(status), Reason::kCheckpointNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/config.json"));
}
TEST_F(ExpectedFromConfig, NeedsATemplate) {
  for (const char* config : {"{}", R"({"model_type": "unknown"})"}) {
    Write("config.json", config);
    ExpectOwnKeys("");
    EXPECT_EQ(RefusedFromConfig(), Reason::kConfigNotSupported);
  }
}
TEST_F(ExpectedFromConfig, WarnsWhereOnlyTheModelTypeIsKnown) {
  Write("config.json", R"({"model_type": "toy", "layers": 2, "architectures": ["ToyForAll"]})");
  ExpectOwnKeys("does not know the architecture \"ToyForAll\"");
  EXPECT_EQ(RefusedFromConfig(), Reason::kConfigNotSupported);
  Write("config.json", R"({"model_type": "toy", "layers": 2, "quantization_config": {"quant_method": "odd"}})");
  ExpectOwnKeys("quant_method \"odd\"");
}
TEST_F(ExpectedFromConfig, RefusesAConfigThatIsBroken) {
  Write("config.json", std::string(kTwoLayers).substr(0, 20));
  EXPECT_EQ(ErrorReason(Plan().status()), Reason::kConfigInvalid);
  EXPECT_EQ(RefusedFromConfig(), Reason::kConfigInvalid);
  Write("config.json", std::string(kMaxConfigBytes + 1, ' '));
  EXPECT_EQ(ErrorReason(Plan().status()), Reason::kDocumentTooLarge);
  EXPECT_EQ(RefusedFromConfig(), Reason::kDocumentTooLarge);
  EXPECT_TRUE(Plan(ExpectedSpec::From::kCheckpoint).ok());
}
TEST_F(ExpectedFromConfig, RefusesWhatContradictsTheTemplate) {
  Write("config.json", R"({"model_type": "toy"})");
  EXPECT_EQ(ErrorReason(Plan().status()), Reason::kConfigInvalid);
  Write("config.json", kTwoLayers);
  Write("templates/toy.toml", "tree = 3");
  EXPECT_EQ(ErrorReason(Plan().status()), Reason::kTemplateInvalid);
}
TEST_F(ExpectedFromConfig, IsForTheModelsOwnWeights) {
  Write("config.json", kTwoLayers);
  std::filesystem::rename(node_.dir() + "/model.safetensors", node_.dir() + "/adapter_model.safetensors");
  ExpectOwnKeys("");
  EXPECT_EQ(Plan(ExpectedSpec::From::kConfig)->expected_from, ExpectedFrom::kConfig);
}
TEST_F(ExpectedFromConfig, IsForDirectories) {
  Write("config.json", kTwoLayers);
  LoadSpec spec = node_.Spec();
  spec.source.path += "/model.safetensors";
  EXPECT_EQ(node_.service().Plan(spec, {})->expected_from, ExpectedFrom::kCheckpoint);
  spec.expected.from = ExpectedSpec::From::kConfig;
  EXPECT_EQ(ErrorReason(node_.service().Plan(spec, {}).status()), Reason::kCheckpointNotFound);
}
TEST_F(ExpectedFromConfig, MissesAllKeysOfADirectoryWithoutWeights) {
  Write("config.json", kTwoLayers);
  std::filesystem::remove(node_.dir() + "/model.safetensors");
  LoadSpec spec = node_.Spec();
  spec.source.allow_no_weights = true;
  EXPECT_EQ(node_.service().Plan(spec, {})->keys.missing, 2u);
}
TEST_F(ExpectedFromConfig, MissesKeysThatOnlyTheIndexFileNames) {
  Write("config.json", kTwoLayers);
  std::filesystem::rename(node_.dir() + "/model.safetensors", node_.dir() + "/model-00001-of-00001.safetensors");
  const std::string shard = "model-00001-of-00001.safetensors";
  WriteIndex(node_.dir() + "/model.safetensors.index.json",
             {{"0", shard}, {"1", shard}, {"7", shard}, {"8", shard}, {"other", shard}});
  const absl::StatusOr<LoadReport> report = Plan();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(report->missing_keys, ElementsAre("1"));
  EXPECT_THAT(report->warnings,
              ElementsAre("model.safetensors.index.json: 3 of its keys are in no shard, for example 7, which is not "
                          "expected, as 2 of them are not"));
}

}  // namespace
}  // namespace keyload
