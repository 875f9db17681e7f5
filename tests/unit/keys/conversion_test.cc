// Keys that are made of stored keys: names, order and shapes.

#include "server/keys/conversion.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/base/error.h"
#include "tests/unit/keys/conversion_case.h"

namespace keyload {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

Conversion One(std::vector<std::string> sources, std::vector<std::string> targets,
               std::vector<ConversionOperation> operations) {
  return {.sources = std::move(sources), .targets = std::move(targets), .operations = std::move(operations)};
}

ConversionOperation Operation(OperationKind kind, std::vector<int64_t> dims = {0}) { return {kind, std::move(dims)}; }

TEST(Conversions, ExpertsAreStackedAndTheirGatesAndUpsAlternate) {
  const auto report = ReconcileCase{.stored = StoredExperts({0, 1}), .manifest = ExpertManifest(2)}.Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kFound), ElementsAre(kGateUp, kDown));
  EXPECT_THAT(PartsOf(*report, kGateUp), ElementsAre("0.gate", "0.up", "1.gate", "1.up"));
  EXPECT_THAT(PartsOf(*report, kDown), ElementsAre("0.down", "1.down"));
  EXPECT_THAT(Unexpected(*report), IsEmpty());
  EXPECT_THAT(report->warnings, IsEmpty());
  EXPECT_EQ(report->StoredBytes(KeyNamed(*report, kGateUp)), 2 * 6 * 2 * 4);
}

TEST(Conversions, ExpertsComeInNaturalOrderWhereverTheyLie) {
  std::vector<int> experts(12);
  for (int i = 0; i < 12; ++i) experts[i] = 11 - i;
  std::sort(experts.begin(), experts.end(),
            [](int a, int b) { return std::to_string(a) < std::to_string(b); });  // as safetensors writes them
  const auto report = ReconcileCase{.stored = StoredExperts(experts), .manifest = ExpertManifest(12)}.Report();
  EXPECT_THAT(PartsOf(*report, kDown), ElementsAre("0.down", "1.down", "2.down", "3.down", "4.down", "5.down", "6.down",
                                                   "7.down", "8.down", "9.down", "10.down", "11.down"));
}

TEST(Conversions, SourcesComeInTheirOrderNotInThatOfTheFile) {
  Manifest manifest{.tensors = {Parameter("a.qkv.weight", {7, 2})}};
  manifest.conversions = {
      One({"q.weight", "k.weight", "v.weight"}, {"qkv.weight"}, {Operation(OperationKind::kConcatenate)})};
  const auto report = ReconcileCase{.stored = {{"a.k.weight", {2, 2}}, {"a.v.weight", {1, 2}}, {"a.q.weight", {4, 2}}},
                                    .manifest = manifest}
                          .Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kFound), ElementsAre("a.qkv.weight"));
  EXPECT_THAT(PartsOf(*report, "a.qkv.weight"), ElementsAre("a.q.weight", "a.k.weight", "a.v.weight"));
}

TEST(Conversions, AChunkIsARangeOfAStoredTensor) {
  Manifest manifest{.tensors = {Parameter("a.q.weight", {2, 2}), Parameter("a.k.weight", {2, 2})}};
  manifest.conversions = {One({"qk.weight"}, {"q.weight", "k.weight"}, {Operation(OperationKind::kChunk)})};
  const auto report = ReconcileCase{.stored = {{"a.qk.weight", {4, 2}}}, .manifest = manifest}.Report();
  EXPECT_THAT(PartsOf(*report, "a.q.weight"), ElementsAre("a.qk.weight@0+16"));
  EXPECT_THAT(PartsOf(*report, "a.k.weight"), ElementsAre("a.qk.weight@16+16"));
  EXPECT_EQ(KeyNamed(*report, "a.k.weight").state, KeyState::kFound);
}

TEST(Conversions, WhatWasPutTogetherMayBeCutElsewhere) {
  Manifest manifest{.tensors = {Parameter("x", {3}), Parameter("y", {3})}};
  manifest.conversions = {
      One({"a$", "b$"}, {"x", "y"}, {Operation(OperationKind::kConcatenate), Operation(OperationKind::kChunk)})};
  const auto report = ReconcileCase{.stored = {{"a", {4}}, {"b", {2}}}, .manifest = manifest}.Report();
  EXPECT_THAT(PartsOf(*report, "x"), ElementsAre("a@0+12"));
  EXPECT_THAT(PartsOf(*report, "y"), ElementsAre("a@12+4", "b"));
}

TEST(Conversions, NegativeDimsCountFromTheEnd) {
  Manifest manifest = ExpertManifest(2);
  manifest.conversions[0].operations = {Operation(OperationKind::kStack, {-3}),
                                        Operation(OperationKind::kConcatenate, {-2})};
  const auto report = ReconcileCase{.stored = StoredExperts({0, 1}), .manifest = manifest}.Report();
  EXPECT_THAT(PartsOf(*report, kGateUp), ElementsAre("0.gate", "0.up", "1.gate", "1.up"));
}

TEST(Conversions, ApplyAfterTheRenamesAndBeforeThePrefix) {
  Manifest manifest = ExpertManifest(1);
  manifest.base_model_prefix = "model";
  manifest.renames = {{"block_sparse_moe", "mlp"}};
  std::vector<StoredKey> stored = StoredExperts({0});
  for (StoredKey& key : stored) key.name = "layers.0.block_sparse_moe" + key.name.substr(18);
  const auto report = ReconcileCase{.stored = stored, .manifest = manifest}.Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kFound), ElementsAre(kGateUp, kDown));
}

TEST(Conversions, ASourceEndsAtAWordBoundary) {
  Manifest manifest{.tensors = {Parameter("a.w", {2}), Parameter("a.weight_scale")}};
  manifest.conversions = {One({"weight"}, {"w"}, {Operation(OperationKind::kConcatenate)})};
  const auto report = ReconcileCase{.stored = {"a.weight", "a.weight_scale"}, .manifest = manifest}.Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kFound), ElementsAre("a.w", "a.weight_scale"));
  EXPECT_EQ(StoredFor(*report, "a.weight_scale"), "a.weight_scale");
}

TEST(Conversions, TheFirstThatIsFoundAppliesWithItsLongestSource) {
  Manifest manifest{.tensors = {Parameter("m.out", {4}), Parameter("m.other")}};
  manifest.conversions = {One({"up", "gate.up"}, {"out"}, {Operation(OperationKind::kConcatenate)}),
                          One({"gate.up"}, {"other"}, {Operation(OperationKind::kConcatenate)})};
  const auto report = ReconcileCase{.stored = {"m.gate.up", "m.up"}, .manifest = manifest}.Report();
  EXPECT_THAT(PartsOf(*report, "m.out"), ElementsAre("m.up", "m.gate.up"));
  EXPECT_THAT(NamesIn(*report, KeyState::kMissing), ElementsAre("m.other"));
}

TEST(Conversions, AGroupTakesThePathOfAPart) {
  Manifest manifest{.tensors = {Parameter("vision.b.qk", {4}), Parameter("text.b.q")}};
  manifest.conversions = {One({R"(^((?:model\.)?vision\..*?)q$)", R"(^((?:model\.)?vision\..*?)k$)"}, {R"(\1qk)"},
                              {Operation(OperationKind::kConcatenate)})};
  const auto report = ReconcileCase{.stored = {"vision.b.k", "vision.b.q", "text.b.q"}, .manifest = manifest}.Report();
  EXPECT_THAT(PartsOf(*report, "vision.b.qk"), ElementsAre("vision.b.q", "vision.b.k"));
  EXPECT_EQ(StoredFor(*report, "text.b.q"), "text.b.q");
}

TEST(Conversions, AConvertedCheckpointIsFoundAsItIs) {
  const auto report =
      ReconcileCase{.stored = {{kGateUp, {2, 6, 2}}, {kDown, {2, 2, 3}}}, .manifest = ExpertManifest(2)}.Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kFound), ElementsAre(kGateUp, kDown));
  EXPECT_THAT(PartsOf(*report, kGateUp), ElementsAre("gate_up_proj"));
}

TEST(Conversions, WhatMakesNoKeyOfTheModelIsMatchedAsItIs) {
  Manifest manifest{.tensors = {Parameter("a.q")}};
  manifest.conversions = {One({"q"}, {"p"}, {Operation(OperationKind::kConcatenate)})};
  const auto report = ReconcileCase{.stored = {"a.q", "b.q"}, .manifest = manifest}.Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kFound), ElementsAre("a.q"));
  EXPECT_THAT(Unexpected(*report), ElementsAre("b.q"));
}

TEST(Conversions, AKeyThatIsNotSelectedHasNoParts) {
  const auto report = ReconcileCase{.stored = StoredExperts({0, 1}),
                                    .manifest = ExpertManifest(2),
                                    .selection = {.include = {"*down_proj"}, .exclude = {}, .keys = {}}}
                          .Report();
  EXPECT_EQ(KeyNamed(*report, kGateUp).state, KeyState::kNotSelected);
  EXPECT_EQ(KeyNamed(*report, kGateUp).made, -1);
  EXPECT_EQ(KeyNamed(*report, kDown).state, KeyState::kFound);
  EXPECT_THAT(Unexpected(*report), IsEmpty());
}

std::string ErrorOf(const Manifest& manifest) {
  Manifest checked = manifest;
  const absl::Status status = ValidateManifest(checked);
  EXPECT_EQ(ErrorReason(status), Reason::kManifestInvalid) << status;
  return std::string(status.message());
}

TEST(CheckConversions, NamesWhatIsWrong) {
  Manifest manifest{.tensors = Parameters({"a"})};
  const Conversion good = One({"b"}, {"a"}, {Operation(OperationKind::kStack)});
  manifest.conversions = {good};
  EXPECT_TRUE(ValidateManifest(manifest).ok());

  manifest.conversions = {good, One({}, {"a"}, {Operation(OperationKind::kStack)})};
  EXPECT_EQ(ErrorOf(manifest), "manifest: conversion 1 (to a): it needs a source, a target and an operation");
  manifest.conversions = {One({"b"}, {"a"}, {Operation(OperationKind::kStack, {0, 1})})};
  EXPECT_THAT(ErrorOf(manifest), HasSubstr("STACK with 2 dims"));
  manifest.conversions = {One({"b"}, {"a"}, {Operation(OperationKind::kTranspose, {0})})};
  EXPECT_THAT(ErrorOf(manifest), HasSubstr("TRANSPOSE with 1 dims"));
  manifest.conversions = {One({"b", "c"}, {"a"}, {Operation(OperationKind::kStack)})};
  EXPECT_THAT(ErrorOf(manifest), HasSubstr("its operations make 2 tensors for 1 targets"));
  manifest.conversions = {One({"b", "c"}, {"a", "d"}, {Operation(OperationKind::kChunk)})};
  EXPECT_THAT(ErrorOf(manifest), HasSubstr("CHUNK of 2 tensors"));
  manifest.conversions = {One({"b"}, std::vector<std::string>(1025, "a"), {Operation(OperationKind::kChunk)})};
  EXPECT_THAT(ErrorOf(manifest), HasSubstr("over 1024"));
}

TEST(Conversions, APatternThatRe2RefusesIsNamed) {
  Manifest manifest{.tensors = Parameters({"a"})};
  manifest.conversions = {One({"b(?!c)"}, {"a"}, {Operation(OperationKind::kStack)})};
  auto refused = ReconcileCase{.stored = {}, .manifest = manifest}.Run();
  EXPECT_EQ(ErrorReason(refused.status()), Reason::kPatternInvalid);
  EXPECT_THAT(refused.status().message(), HasSubstr("conversions: pattern 'b(?!c)'"));

  manifest.conversions = {One({"b"}, {R"(\1a)"}, {Operation(OperationKind::kStack)})};
  refused = ReconcileCase{.stored = {}, .manifest = manifest}.Run();
  EXPECT_EQ(ErrorReason(refused.status()), Reason::kPatternInvalid);
  EXPECT_THAT(refused.status().message(), HasSubstr(R"(source 'b': target '\1a')"));
}

}  // namespace
}  // namespace keyload
