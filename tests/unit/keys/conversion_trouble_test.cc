// Stored keys of which a conversion cannot make its key, and what is said about them.

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
using testing::SizeIs;

constexpr char kExperts[] = "model.layers.0.mlp.experts.";

// Without the stored key `name`.
std::vector<StoredKey> Without(std::vector<StoredKey> stored, const std::string& name) {
  EXPECT_EQ(std::erase_if(stored, [&](const StoredKey& key) { return key.name == kExperts + name; }), 1);
  return stored;
}

StoredKey& Named(std::vector<StoredKey>& stored, const std::string& name) {
  const auto it =
      std::find_if(stored.begin(), stored.end(), [&](const StoredKey& key) { return key.name == kExperts + name; });
  EXPECT_NE(it, stored.end());
  return *it;
}

absl::Status ErrorOf(const std::vector<StoredKey>& stored, const Manifest& manifest) {
  return ReconcileCase{.stored = stored, .manifest = manifest}.Run().status();
}

TEST(LackingSources, AMissingExpertIsNamedAndMovesNoOther) {
  const auto report =
      ReconcileCase{.stored = Without(StoredExperts({0, 1, 2, 3}), "2.up_proj.weight"), .manifest = ExpertManifest(4)}
          .Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kMissing), ElementsAre(kGateUp));
  EXPECT_THAT(NamesIn(*report, KeyState::kFound), ElementsAre(kDown));
  EXPECT_THAT(Unexpected(*report), IsEmpty()) << "the others belong to the missing key";
  EXPECT_THAT(report->warnings, ElementsAre("model.layers.0.mlp.experts.gate_up_proj is missing: it lacks 1 stored "
                                            "key: model.layers.0.mlp.experts.2.up_proj.weight"));
}

TEST(LackingSources, AHoleIsNamedAlsoWhenTheCountIsRight) {
  const auto report = ReconcileCase{.stored = StoredExperts({0, 1, 3, 4}), .manifest = ExpertManifest(4)}.Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kMissing), ElementsAre(kGateUp, kDown));
  EXPECT_THAT(report->warnings[1], HasSubstr("it lacks 1 stored key: model.layers.0.mlp.experts.2.down_proj.weight"));
}

TEST(LackingSources, TheFirstAndTheLastAreMissedByShape) {
  auto report = ReconcileCase{.stored = StoredExperts({1, 2, 3}), .manifest = ExpertManifest(4)}.Report();
  EXPECT_THAT(report->warnings[1], HasSubstr("it lacks 1 stored key: model.layers.0.mlp.experts.0.down_proj.weight"));
  report = ReconcileCase{.stored = StoredExperts({0, 1, 2}), .manifest = ExpertManifest(4)}.Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kMissing), ElementsAre(kGateUp, kDown));
  EXPECT_THAT(report->warnings[1], HasSubstr("it lacks 1 stored key: model.layers.0.mlp.experts.3.down_proj.weight"));
}

TEST(LackingSources, NumbersMayBeginAtOne) {
  const auto report = ReconcileCase{.stored = StoredExperts({1, 2, 3}), .manifest = ExpertManifest(3)}.Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kFound), ElementsAre(kGateUp, kDown));
}

TEST(LackingSources, OneExpertOfManyIsCounted) {
  const auto report = ReconcileCase{.stored = StoredExperts({0}), .manifest = ExpertManifest(4)}.Report();
  EXPECT_THAT(report->warnings[1], HasSubstr("it has 1 of 4 stored keys of 'mlp.experts.*.down_proj.weight'"));
}

TEST(LackingSources, ASourceWithoutAnyIsNamedAsItIs) {
  const auto report = ReconcileCase{.stored = {{"model.layers.0.mlp.experts.0.gate_proj.weight", {3, 2}},
                                               {"model.layers.0.mlp.experts.1.gate_proj.weight", {3, 2}}},
                                    .manifest = ExpertManifest(2)}
                          .Report();
  EXPECT_THAT(report->warnings,
              ElementsAre(HasSubstr("it lacks 2 stored keys: all of 'mlp.experts.*.up_proj.weight', ...")));
  EXPECT_THAT(NamesIn(*report, KeyState::kMissing), ElementsAre(kGateUp, kDown));
}

TEST(LackingSources, ManyAreCountedAndAFewNamed) {
  const auto report = ReconcileCase{.stored = StoredExperts({0, 19}), .manifest = ExpertManifest(20)}.Report();
  EXPECT_THAT(report->warnings[1], HasSubstr("it lacks 18 stored keys: model.layers.0.mlp.experts.1.down_proj"));
  EXPECT_THAT(report->warnings[1], HasSubstr("experts.5.down_proj.weight, ..."));
  EXPECT_THAT(report->warnings[1], Not(HasSubstr("experts.6.")));
}

TEST(LackingSources, HugeNumbersCostNothing) {
  std::vector<StoredKey> stored = StoredExperts({0, 1});
  stored.emplace_back("model.layers.0.mlp.experts.4611686018427387900.down_proj.weight", Shape{2, 3});
  Manifest manifest = ExpertManifest(2);
  manifest.tensors[1].shape = {uint64_t{1} << 55, 2, 3};
  const auto report = ReconcileCase{.stored = stored, .manifest = manifest}.Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kMissing), ElementsAre(kDown));
  EXPECT_THAT(report->warnings, ElementsAre(HasSubstr("it lacks 4611686018427387898 stored keys")));
}

TEST(LackingSources, LongSourcesAreShortened) {
  Manifest manifest = ExpertManifest(2);
  manifest.conversions[0].sources[1] = std::string(3000, 'x');
  const auto report = ReconcileCase{.stored = StoredExperts({0, 1}), .manifest = manifest}.Report();
  ASSERT_THAT(report->warnings, SizeIs(1));
  EXPECT_THAT(report->warnings[0], HasSubstr("all of 'xxx"));
  EXPECT_LT(report->warnings[0].size(), 700u);
}

TEST(LackingSources, OnlyTheFirstKeysAreExplained) {
  std::vector<StoredKey> stored;
  Manifest manifest;
  for (int layer = 0; layer < 20; ++layer) {
    for (const StoredKey& key : StoredExperts({0}, layer)) stored.push_back(key);
    manifest.tensors.push_back(Parameter(absl::StrCat("model.layers.", layer, ".mlp.experts.down_proj"), {2, 2, 3}));
  }
  manifest.conversions = ExpertConversions();
  const auto report = ReconcileCase{.stored = stored, .manifest = manifest}.Report();
  ASSERT_THAT(report->warnings, SizeIs(6));
  EXPECT_THAT(report->warnings[4], HasSubstr("it has 1 of 2 stored keys"));
  EXPECT_THAT(report->warnings[5], HasSubstr("15 more keys"));
}

TEST(Conversions, WhatTheyCollectIsCounted) {
  std::vector<StoredKey> stored;
  Manifest manifest;
  for (int layer = 0; layer < 4000; ++layer) {
    stored.emplace_back(absl::StrCat("model.layers.", layer, ".mlp.experts.0.gate_proj.weight"), Shape{3, 2});
    manifest.tensors.push_back(Parameter(absl::StrCat("model.layers.", layer, ".mlp.experts.gate_up_proj"), {1, 6, 2}));
  }
  manifest.conversions = ExpertConversions();
  for (int i = 0; i < 100; ++i) manifest.conversions[0].sources.push_back(absl::StrCat("no.such.", i));
  RequestContext context;
  context.heap = std::make_shared<RequestHeap>(std::make_shared<HeapAccount>(24 << 20));
  const absl::Status status = ReconcileCase{.stored = stored, .manifest = manifest, .context = &context}.Run().status();
  EXPECT_EQ(ErrorReason(status), Reason::kMemoryExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("conversions"));
}

TEST(LackingSources, TheSameNumberTwiceIsNoOrder) {
  std::vector<StoredKey> stored = StoredExperts({0, 1});
  stored.emplace_back("model.layers.0.mlp.experts.01.down_proj.weight", Shape{2, 3});
  Manifest manifest = ExpertManifest(2);
  manifest.tensors[1].shape = {3, 2, 3};
  const auto report = ReconcileCase{.stored = stored, .manifest = manifest}.Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kMissing), ElementsAre(kDown));
  EXPECT_THAT(report->warnings, ElementsAre(HasSubstr("two of its stored keys have the number 1")));
}

TEST(LackingSources, ASelectionThatLeavesTheKeyOutHearsNothing) {
  const auto report = ReconcileCase{.stored = StoredExperts({0, 1, 2}),
                                    .manifest = ExpertManifest(4),
                                    .selection = {.include = {"*down_proj"}, .exclude = {}, .keys = {}}}
                          .Report();
  EXPECT_THAT(report->warnings, SizeIs(1));
}

TEST(LackingSources, WhatOnlyTheIndexFileNamesIsExpected) {
  const auto report = ReconcileCase{.stored = StoredExperts({0}),
                                    .index_only = {"model.layers.0.mlp.experts.1.down_proj.weight"},
                                    .manifest = ExpertManifest(1)}
                          .Report();
  EXPECT_THAT(
      report->warnings,
      ElementsAre(": 1 of its keys are in no shard, for example model.layers.0.mlp.experts.1.down_proj.weight"));
}

TEST(LackingSources, AKeyThatMayBeMissingIsNotExplained) {
  Manifest manifest = ExpertManifest(4);
  manifest.ignore_missing = {"gate_up"};
  const auto report = ReconcileCase{.stored = StoredExperts({0, 1, 2}), .manifest = manifest}.Report();
  EXPECT_THAT(report->warnings, ElementsAre(HasSubstr("down_proj is missing")));
}

TEST(LackingSources, TheFirstFiveKeysAreExplained) {
  std::vector<StoredKey> stored;
  Manifest manifest{.tensors = {}};
  for (int layer = 0; layer < 4; ++layer) {
    for (StoredKey& key : StoredExperts({0, 2}, layer)) stored.push_back(std::move(key));
    const std::string module = "model.layers." + std::to_string(layer) + ".mlp.experts.";
    manifest.tensors.push_back(Parameter(module + "gate_up_proj", {3, 6, 2}));
    manifest.tensors.push_back(Parameter(module + "down_proj", {3, 2, 3}));
  }
  manifest.conversions = ExpertConversions();
  const auto report = ReconcileCase{.stored = stored, .manifest = manifest}.Report();
  EXPECT_EQ(report->counts.missing, 8);
  ASSERT_THAT(report->warnings, SizeIs(6));
  EXPECT_EQ(report->warnings[5], "3 more keys lack stored keys that they are made of, or theirs do not fit");
}

TEST(MisfittingSources, AnotherNumberOfExpertsIsAMismatch) {
  const auto report = ReconcileCase{.stored = StoredExperts({0, 1, 2}), .manifest = ExpertManifest(2)}.Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kMismatched), ElementsAre(kGateUp, kDown));
  EXPECT_THAT(report->StoredShape(KeyNamed(*report, kGateUp)), ElementsAre(3, 6, 2));
}

TEST(MisfittingSources, ExpertsOfHalfTheSizeAreAMismatch) {
  std::vector<StoredKey> stored = StoredExperts({0, 1});
  for (StoredKey& key : stored) key.shape = key.shape == Shape{2, 3} ? Shape{1, 3} : key.shape;
  const auto report = ReconcileCase{.stored = stored, .manifest = ExpertManifest(2)}.Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kMismatched), ElementsAre(kDown));
  EXPECT_THAT(report->StoredShape(KeyNamed(*report, kDown)), ElementsAre(2, 1, 3));
}

TEST(LackingSources, PartsThatAreConcatenatedAreCountedByTheirLength) {
  Manifest manifest{.tensors = {Parameter("m.w", {7})}};
  manifest.conversions = {
      {.sources = {"b.*.w$", "a$"}, .targets = {"w"}, .operations = {{OperationKind::kConcatenate, {0}}}}};
  auto report =
      ReconcileCase{.stored = {{"m.b.0.w", {2}}, {"m.b.1.w", {2}}, {"m.a", {3}}}, .manifest = manifest}.Report();
  EXPECT_THAT(PartsOf(*report, "m.w"), ElementsAre("m.b.0.w", "m.b.1.w", "m.a"));
  report = ReconcileCase{.stored = {{"m.b.0.w", {2}}, {"m.a", {3}}}, .manifest = manifest}.Report();
  EXPECT_THAT(report->warnings, ElementsAre(HasSubstr("it has 1 of 2 stored keys of 'b.*.w$'")));
}

TEST(MisfittingSources, AnExpertOfAnotherShapeIsNamed) {
  std::vector<StoredKey> stored = StoredExperts({0, 1, 2});
  Named(stored, "1.down_proj.weight").shape = {2, 4};
  const auto report = ReconcileCase{.stored = stored, .manifest = ExpertManifest(3)}.Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kMismatched), ElementsAre(kDown));
  EXPECT_THAT(report->StoredShape(KeyNamed(*report, kDown)), ElementsAre(2, 4));
  EXPECT_THAT(report->warnings, ElementsAre("model.layers.0.mlp.experts.down_proj cannot be made: "
                                            "model.layers.0.mlp.experts.1.down_proj.weight: it has shape [2, 4], "
                                            "others have [2, 3]"));
}

TEST(MisfittingSources, AnExpertOfAnotherDtypeIsNamed) {
  std::vector<StoredKey> stored = StoredExperts({0, 1, 2});
  Named(stored, "2.down_proj.weight").dtype = DType::kBF16;
  const auto report = ReconcileCase{.stored = stored, .manifest = ExpertManifest(3)}.Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kMismatched), ElementsAre(kDown));
  EXPECT_THAT(report->warnings, ElementsAre(HasSubstr("2.down_proj.weight: it is BF16, others are F32")));
}

TEST(MisfittingSources, AMisfitWithTheShapeOfTheKeyIsNoneTheLess) {
  std::vector<StoredKey> stored = StoredExperts({0, 1});
  Named(stored, "1.down_proj.weight").shape = {2, 2, 3};
  const auto report = ReconcileCase{.stored = stored, .manifest = ExpertManifest(2)}.Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kMismatched), ElementsAre(kDown));
}

TEST(MisfittingSources, ATensorThatCannotBeCutEvenlyIsNamed) {
  Manifest manifest{.tensors = {Parameter("q", {2}), Parameter("k", {2})}};
  manifest.conversions = {{.sources = {"w$"}, .targets = {"q", "k"}, .operations = {{OperationKind::kChunk, {0}}}}};
  auto report = ReconcileCase{.stored = {{"w", {5}}}, .manifest = manifest}.Report();
  EXPECT_EQ(report->counts.mismatched, 2);
  EXPECT_THAT(report->warnings[0], HasSubstr("w: shape [5] cannot be cut into 2 equal parts along dimension 0"));
  manifest.conversions[0].operations[0].dims = {1};
  report = ReconcileCase{.stored = {{"w", {4}}}, .manifest = manifest}.Report();
  EXPECT_EQ(report->counts.mismatched, 2);
}

TEST(UnsupportedConversions, WhatReordersBytesIsRefusedByName) {
  Manifest manifest = ExpertManifest(2);
  manifest.conversions[1].operations.push_back({OperationKind::kTranspose, {1, 2}});
  const absl::Status status = ErrorOf(StoredExperts({0, 1}), manifest);
  EXPECT_EQ(ErrorReason(status), Reason::kFieldNotSupported);
  EXPECT_EQ(status.message(),
            "manifest: conversion 1 (to mlp.experts.down_proj): TRANSPOSE(1, 2) reorders the bytes inside stored "
            "tensors, and only whole ranges are placed");
  EXPECT_EQ(ErrorDetails(status)["field"], "manifest.conversions[1].operations[1]");
  manifest.conversions[1].operations[1] = {OperationKind::kPermute, {0, 2, 1}};
  EXPECT_EQ(ErrorReason(ErrorOf(StoredExperts({0, 1}), manifest)), Reason::kFieldNotSupported);
}

TEST(UnsupportedConversions, AConvertedCheckpointNeedsNone) {
  Manifest manifest = ExpertManifest(2);
  manifest.conversions[1].operations.push_back({OperationKind::kTranspose, {1, 2}});
  EXPECT_TRUE(ErrorOf({{kGateUp, {2, 6, 2}}, {kDown, {2, 2, 3}}}, manifest).ok());
}

TEST(UnsupportedConversions, WhatWouldCutTensorsIntoRangesIsRefused) {
  Manifest manifest{.tensors = {Parameter("q", {3, 4})}};
  manifest.conversions = {{.sources = {"a$", "b$"}, .targets = {"q"}, .operations = {}}};
  manifest.conversions[0].operations = {{OperationKind::kConcatenate, {1}}};
  absl::Status status = ErrorOf({{"a", {3, 2}}, {"b", {3, 2}}}, manifest);
  EXPECT_EQ(ErrorReason(status), Reason::kFieldNotSupported);
  EXPECT_THAT(status.message(), HasSubstr("CONCATENATE(1) would cut a into ranges that are apart"));

  manifest = ExpertManifest(2);
  manifest.conversions[1].operations = {{OperationKind::kStack, {1}}};
  EXPECT_EQ(ErrorReason(ErrorOf(StoredExperts({0, 1}), manifest)), Reason::kFieldNotSupported);
  manifest.conversions[0].operations[1] = {OperationKind::kConcatenate, {2}};
  EXPECT_EQ(ErrorReason(ErrorOf(StoredExperts({0, 1}), manifest)), Reason::kFieldNotSupported);

  manifest = {.tensors = {Parameter("q", {3, 2}), Parameter("k", {3, 2})}};
  manifest.conversions = {{.sources = {"w$"}, .targets = {"q", "k"}, .operations = {{OperationKind::kChunk, {1}}}}};
  status = ErrorOf({{"w", {3, 4}}}, manifest);
  EXPECT_EQ(ErrorReason(status), Reason::kFieldNotSupported);
  EXPECT_THAT(status.message(), HasSubstr("CHUNK(1) would cut w into ranges"));
}

TEST(ConversionConflicts, AKeyThatIsStoredAndMadeIsAConflict) {
  std::vector<StoredKey> stored = StoredExperts({0, 1});
  stored.emplace_back(kDown, Shape{2, 2, 3});
  const absl::Status status = ErrorOf(stored, ExpertManifest(2));
  EXPECT_EQ(ErrorReason(status), Reason::kKeyConflict);
  EXPECT_EQ(ErrorDetails(status)["first"], kDown);
  EXPECT_EQ(ErrorDetails(status)["second"], "model.layers.0.mlp.experts.0.down_proj.weight");
}

TEST(ConversionConflicts, TwoStoredKeysOfOneNameAreAConflict) {
  std::vector<StoredKey> stored = StoredExperts({0, 1});
  stored.emplace_back("old.layers.0.mlp.experts.1.down_proj.weight", Shape{2, 3});
  Manifest manifest = ExpertManifest(2);
  manifest.renames = {{"^old", "model"}};
  const absl::Status status = ErrorOf(stored, manifest);
  EXPECT_EQ(ErrorReason(status), Reason::kKeyConflict);
  EXPECT_EQ(ErrorDetails(status)["second"], "old.layers.0.mlp.experts.1.down_proj.weight");
}

TEST(ConversionConflicts, KeysWithAndWithoutThePrefixDoNotMix) {
  std::vector<StoredKey> stored = StoredExperts({0});
  for (StoredKey& key : StoredExperts({1})) {
    stored.emplace_back(key.name.substr(6), key.shape);
  }
  Manifest manifest = ExpertManifest(2);
  manifest.base_model_prefix = "model";
  EXPECT_EQ(ErrorReason(ErrorOf(stored, manifest)), Reason::kKeyConflict);
}

TEST(ConversionConflicts, TwoKeysOfASourceThatTakesOneAreAMismatch) {
  Manifest manifest{.tensors = {Parameter("q", {2})}};
  manifest.conversions = {{.sources = {"[ab]$"}, .targets = {"q"}, .operations = {{OperationKind::kChunk, {0}}}}};
  const auto report = ReconcileCase{.stored = {"a", "b"}, .manifest = manifest}.Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kMismatched), ElementsAre("q"));
  EXPECT_THAT(report->warnings, ElementsAre(HasSubstr("b: 2 stored tensors become one")));
}

}  // namespace
}  // namespace keyload
