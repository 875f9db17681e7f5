#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/keys/reconcile_case.h"

namespace keyload {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

ReconcileCase ThreeTied(std::vector<StoredKey> stored) {
  return {.stored = std::move(stored),
          .manifest = {.tensors = Parameters({"t1", "src", "t2"}), .tied_groups = {{"src", {"t2", "t1"}}}}};
}

TEST(ReconcileTied, TheSourceSuppliesAbsentTargets) {
  const auto report = ThreeTied({"src"}).Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kTied), ElementsAre("t1", "t2"));
  EXPECT_EQ(KeyNamed(*report, "t1").tied_to, 1);
  EXPECT_EQ(KeyNamed(*report, "t1").stored, -1);
  EXPECT_EQ(report->counts.missing_tied, 2u);
  EXPECT_EQ(report->counts.missing, 0u);
}

TEST(ReconcileTied, TheFirstStoredTargetOfTheGroupSuppliesAnAbsentSource) {
  const auto report = ThreeTied({"t1", "t2"}).Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kTied), ElementsAre("src"));
  EXPECT_EQ(report->keys[KeyNamed(*report, "src").tied_to].name, "t2");
}

TEST(ReconcileTied, SeveralStoredMembersAreEachFound) {
  const auto report = ThreeTied({"src", "t1", "t2"}).Report();
  EXPECT_EQ(NamesIn(*report, KeyState::kFound).size(), 3u);
}

TEST(ReconcileTied, AllAbsentStayMissing) {
  const auto report = ThreeTied({}).Report();
  EXPECT_EQ(report->counts.missing, 3u);
  EXPECT_EQ(report->counts.missing_tied, 0u);
}

TEST(ReconcileTied, AMismatchedMemberSuppliesNothing) {
  const auto report = ThreeTied({{"src", {3}}}).Report();
  EXPECT_EQ(KeyNamed(*report, "src").state, KeyState::kMismatched);
  EXPECT_THAT(NamesIn(*report, KeyState::kMissing), ElementsAre("t1", "t2"));
}

TEST(ReconcileTied, ATiedKeyIsCountedBeforeAnIgnorePattern) {
  ReconcileCase test = ThreeTied({"src"});
  test.rules.ignore_missing = {"t1"};
  const auto report = test.Report();
  EXPECT_EQ(report->counts.missing_tied, 2u);
  EXPECT_EQ(report->counts.missing_ignored, 0u);
}

TEST(ReconcileTied, GroupsAreIndicesWithTheSourceFirst) {
  const auto report = ThreeTied({"src"}).Report();
  EXPECT_THAT(report->tied_groups, ElementsAre(ElementsAre(1u, 2u, 0u)));
  for (const ModelKey& key : report->keys) EXPECT_EQ(key.tied_group, 0);
}

// transformers test_tied_weights_reload: base checkpoint into a head model whose decoder is tied to base.linear.
TEST(ReconcileUpstream, TiedWeightsReload) {
  const auto report = ReconcileCase{.stored = {"linear.weight", "linear.bias"},
                                    .manifest = {.base_model_prefix = "base",
                                                 .tensors = Parameters({"base.linear.weight", "base.linear.bias",
                                                                        "decoder.weight", "decoder.bias"}),
                                                 .tied_groups = {{"base.linear.weight", {"decoder.weight"}}}}}
                          .Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kMissing), ElementsAre("decoder.bias"));
  EXPECT_THAT(Unexpected(*report), IsEmpty());
}

// transformers test_tied_weights_can_load_symmetrically(_multiple_keys): only a target was saved.
TEST(ReconcileUpstream, TiedWeightsLoadSymmetrically) {
  const ReconcileCase two{.stored = {"linear_2.weight"},
                          .manifest = {.tensors = Parameters({"linear.weight", "linear_2.weight"}),
                                       .tied_groups = {{"linear.weight", {"linear_2.weight"}}}}};
  EXPECT_EQ(two.Report()->counts.missing, 0u);
  EXPECT_EQ(ThreeTied({"t1"}).Report()->counts.missing, 0u);
}

// transformers test_tied_weights_are_missing_if_both_absent
TEST(ReconcileUpstream, TiedWeightsAreMissingIfBothAbsent) {
  const auto report =
      ReconcileCase{.stored = {"linear.bias"},
                    .manifest = {.tensors = Parameters({"linear.weight", "linear.bias", "linear_2.weight"}),
                                 .tied_groups = {{"linear.weight", {"linear_2.weight"}}}}}
          .Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kMissing), ElementsAre("linear.weight", "linear_2.weight"));
}

// transformers test_unexpected_keys_warnings: a head checkpoint into the base model, and an added key.
TEST(ReconcileUpstream, UnexpectedKeys) {
  const auto report = ReconcileCase{.stored = {"base.linear.weight", "linear2.weight", "linear2.bias", "added_key"},
                                    .manifest = {.base_model_prefix = "base", .tensors = Parameters({"linear.weight"})}}
                          .Report();
  EXPECT_THAT(Unexpected(*report), ElementsAre("added_key", "linear2.bias", "linear2.weight"));
  EXPECT_EQ(report->counts.missing, 0u);
}

// transformers test_ignore_missing_key_works
TEST(ReconcileUpstream, IgnoredMissingKeyIsNotReported) {
  const auto report = ReconcileCase{.stored = {"linear.weight"},
                                    .manifest = {.tensors = Parameters({"linear.weight", "linear2.weight"}),
                                                 .ignore_missing = {"^linear2"}}}
                          .Report();
  EXPECT_EQ(report->counts.missing, 0u);
  EXPECT_EQ(report->counts.missing_ignored, 1u);
}

// transformers test_group_weight_rename, as plain renames: keys that are right already stay.
TEST(ReconcileUpstream, KeysThatAreRightAlreadyAreNotRenamed) {
  const auto report = ReconcileCase{.stored = {"layers.0.norm1", "layers.0.norm2"},
                                    .manifest = {.tensors = Parameters({"layers.0.norm1", "layers.0.norm2"}),
                                                 .renames = {{"norm0$", "norm1"}, {"\\.old\\.", "."}}}}
                          .Report();
  EXPECT_EQ(report->counts.missing + report->counts.unexpected, 0u);
}

// The sentence-transformers MiniLM checkpoint as BertForMaskedLM, with one layer.
TEST(ReconcileUpstream, MiniLmAsMaskedLanguageModel) {
  const std::string layer = "encoder.layer.0.attention.self.query.";
  const ReconcileCase test{
      .stored = {"embeddings.position_ids", "embeddings.word_embeddings.weight", layer + "weight", layer + "bias",
                 "pooler.dense.bias", "pooler.dense.weight"},
      .manifest = {.base_model_prefix = "bert",
                   .tensors = {NonPersistent("bert.embeddings.position_ids"),
                               Parameter("bert.embeddings.word_embeddings.weight"),
                               Parameter("bert." + layer + "weight"), Parameter("bert." + layer + "bias"),
                               Parameter("cls.predictions.bias"), Parameter("cls.predictions.transform.dense.weight"),
                               Parameter("cls.predictions.transform.dense.bias"),
                               Parameter("cls.predictions.transform.LayerNorm.weight"),
                               Parameter("cls.predictions.transform.LayerNorm.bias"),
                               Parameter("cls.predictions.decoder.weight"), Parameter("cls.predictions.decoder.bias")},
                   .tied_groups = {{"bert.embeddings.word_embeddings.weight", {"cls.predictions.decoder.weight"}},
                                   {"cls.predictions.bias", {"cls.predictions.decoder.bias"}}}}};
  const auto report = test.Report();
  EXPECT_EQ(report->counts.expected, 10u);
  EXPECT_THAT(NamesIn(*report, KeyState::kMissing),
              ElementsAre("cls.predictions.bias", "cls.predictions.transform.dense.weight",
                          "cls.predictions.transform.dense.bias", "cls.predictions.transform.LayerNorm.weight",
                          "cls.predictions.transform.LayerNorm.bias", "cls.predictions.decoder.bias"));
  EXPECT_THAT(NamesIn(*report, KeyState::kTied), ElementsAre("cls.predictions.decoder.weight"));
  EXPECT_THAT(Unexpected(*report), ElementsAre("pooler.dense.bias", "pooler.dense.weight"));
  EXPECT_THAT(UnexpectedIgnored(*report), ElementsAre("bert.embeddings.position_ids"));
  EXPECT_EQ(report->counts.mismatched, 0u);
}

}  // namespace
}  // namespace keyload
