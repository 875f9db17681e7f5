#include "server/keys/absent_shards.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "server/base/error.h"
#include "tests/support/checkpoint_builder.h"
#include "tests/unit/keys/reconcile_case.h"

namespace keyload {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Three shards, "layers.N.w" and "layers.N.b" in each, of which the last one is absent.
class AbsentShardsTest : public ::testing::Test {
 protected:
  AbsentShardsTest() {
    std::vector<std::vector<TestTensor>> shards;
    for (const std::string layer : {"layers.0", "layers.1", "layers.2"}) {
      shards.push_back({{.name = layer + ".w", .dtype = DType::kF32, .shape = {2}, .data = ""},
                        {.name = layer + ".b", .dtype = DType::kF32, .shape = {2}, .data = ""}});
    }
    const auto files = WriteShardedCheckpoint(dir_.path(), shards);
    std::filesystem::remove(dir_.File(files[2]));
    index_ = *OpenCheckpoint(ModelRoots::Create({dir_.path()}).value(),
                             {.path = dir_.path(), .weights = "", .may_lack_shards = true}, {});
  }

  absl::StatusOr<std::shared_ptr<const KeyReport>> Run(const std::string& include, const KeyRules& rules = {}) {
    const KeySelection selection = *KeySelection::Compile({.include = {include}, .exclude = {}, .keys = {}});
    return Reconcile({.index = index_, .manifest = manifest_, .rules = rules, .selection = &selection});
  }
  void Expect(std::vector<std::string> names) {
    auto manifest = std::make_shared<Manifest>();
    manifest->tensors = Parameters(names);
    manifest_ = manifest;
  }

  TempDir dir_;
  std::shared_ptr<const CheckpointIndex> index_;
  std::shared_ptr<const Manifest> manifest_;
};

TEST_F(AbsentShardsTest, KeysOfAbsentShardsAreExpectedAndNotSelected) {
  const auto report = Run("layers.{0,1}.*");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ((*report)->counts.expected, 6u);
  EXPECT_EQ((*report)->counts.selected, 4u);
  EXPECT_EQ((*report)->counts.not_selected, 2u);
  EXPECT_EQ((*report)->counts.missing, 0u);
  EXPECT_THAT(NamesIn(**report, KeyState::kNotSelected), ElementsAre("layers.2.b", "layers.2.w"));
}

TEST_F(AbsentShardsTest, ASelectedKeyOfAnAbsentShardIsAnErrorThatNamesTheShard) {
  const absl::Status status = Run("layers.{1,2}.*").status();
  EXPECT_EQ(ErrorReason(status), Reason::kCheckpointNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("1 of 3 shards is absent and needed: model-00003-of-00003."
                                                       "safetensors; they have 2 of the selected keys"));
  EXPECT_EQ(ErrorDetails(status)["absent"], "model-00003-of-00003.safetensors");
}

TEST_F(AbsentShardsTest, WithAManifestOnlyKeysOfTheModelCount) {
  Expect({"layers.0.w", "layers.1.w", "layers.2.w", "head"});
  const auto report = Run("layers.{0,1}.*");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ((*report)->counts.not_selected, 2u);
  EXPECT_EQ(ErrorReason(Run("layers.2.w").status()), Reason::kCheckpointNotFound);
  EXPECT_TRUE(Run("layers.2.b").ok()) << "no key of the model";
  const auto head = Run("head");
  ASSERT_TRUE(head.ok()) << head.status();
  EXPECT_EQ((*head)->counts.missing, 1u) << "it is in no shard at all";
}

TEST_F(AbsentShardsTest, NamesAreThoseAfterTheRenames) {
  KeyRules rules;
  rules.renames = {{.pattern = "^layers", .replacement = "h"}};
  EXPECT_TRUE(Run("h.{0,1}.*", rules).ok());
  EXPECT_EQ(ErrorReason(Run("h.2.w", rules).status()), Reason::kCheckpointNotFound);
  Expect({"model.h.0.w", "model.h.2.w"});
  rules.base_model_prefix = "model";
  EXPECT_TRUE(Run("model.h.0.w", rules).ok());
  EXPECT_EQ(ErrorReason(Run("model.h.2.w", rules).status()), Reason::kCheckpointNotFound);
}

}  // namespace
}  // namespace keyload
