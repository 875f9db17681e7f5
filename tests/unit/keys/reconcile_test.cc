#include "server/keys/reconcile.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/base/error.h"
#include "tests/unit/keys/reconcile_case.h"

namespace keyload {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(Reconcile, FindsMissingAndUnexpectedKeys) {
  const auto report = ReconcileCase{.stored = {"b", "x"}, .manifest = {.tensors = Parameters({"b", "a"})}}.Report();
  EXPECT_THAT(Names(*report), ElementsAre("b", "a")) << "registration order";
  EXPECT_THAT(NamesIn(*report, KeyState::kFound), ElementsAre("b"));
  EXPECT_THAT(NamesIn(*report, KeyState::kMissing), ElementsAre("a"));
  EXPECT_THAT(Unexpected(*report), ElementsAre("x"));
  EXPECT_EQ(report->counts.expected, 2u);
  EXPECT_EQ(report->counts.selected, 2u);
  EXPECT_EQ(report->counts.missing, 1u);
  EXPECT_EQ(report->counts.unexpected, 1u);
  EXPECT_EQ(report->counts.loaded, 0u) << "the load fills it";
}

TEST(Reconcile, GivesExpectedShapeDtypeAndSize) {
  const auto report = ReconcileCase{.stored = {{"a", {4, 2}, DType::kBF16}},
                                    .manifest = {.tensors = {Parameter("a", {4, 2}, DType::kF32)}}}
                          .Report();
  const ModelKey& key = KeyNamed(*report, "a");
  EXPECT_EQ(key.state, KeyState::kFound) << "another dtype alone is no mismatch";
  EXPECT_EQ(key.dtype, DType::kF32);
  EXPECT_EQ(key.bytes, 32u);
  EXPECT_EQ(key.stored, 0);
}

TEST(Reconcile, ReportsAnotherShapeAsMismatched) {
  const auto report = ReconcileCase{.stored = {{"a", {2, 4}}, {"b", {4}}},
                                    .manifest = {.tensors = {Parameter("a", {4, 2}), Parameter("b", {4, 1})}}}
                          .Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kMismatched), ElementsAre("a", "b"));
  EXPECT_EQ(StoredFor(*report, "a"), "a");
  EXPECT_EQ(report->counts.mismatched, 2u);
  EXPECT_EQ(report->counts.missing, 0u);
}

TEST(Reconcile, ListsUnexpectedKeysInNaturalOrder) {
  const auto report = ReconcileCase{.stored = {"l.10", "l.9", "a"}}.Report();
  EXPECT_THAT(Unexpected(*report), ElementsAre("a", "l.9", "l.10"));
}

TEST(Reconcile, NonPersistentBuffersAreNeverExpected) {
  const auto report =
      ReconcileCase{.stored = {"a", "ids"},
                    .manifest = {.tensors = {Parameter("a"), NonPersistent("ids"), NonPersistent("freq")}}}
          .Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kNonPersistent), ElementsAre("ids", "freq"));
  EXPECT_EQ(report->counts.expected, 1u);
  EXPECT_EQ(report->counts.missing, 0u);
  EXPECT_THAT(UnexpectedIgnored(*report), ElementsAre("ids"));
  EXPECT_EQ(report->counts.unexpected, 0u);
  EXPECT_EQ(report->counts.unexpected_ignored, 1u);
  EXPECT_EQ(KeyNamed(*report, "ids").stored, -1);
}

TEST(Reconcile, TwoStoredCopiesOfANonPersistentBufferAreNoConflict) {
  const auto report = ReconcileCase{.stored = {"base.ids", "ids"},
                                    .manifest = {.base_model_prefix = "base", .tensors = {NonPersistent("ids")}}}
                          .Report();
  EXPECT_EQ(report->counts.unexpected_ignored, 2u);
}

TEST(Reconcile, PersistentBuffersAreExpected) {
  const auto report =
      ReconcileCase{.manifest = {.tensors = {{.name = "mean", .kind = TensorKind::kBuffer, .shape = {2}}}}}.Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kMissing), ElementsAre("mean"));
}

TEST(ReconcilePrefix, IsAddedToCheckpointKeys) {
  const auto report = ReconcileCase{.stored = {"emb.w"},
                                    .manifest = {.base_model_prefix = "bert", .tensors = Parameters({"bert.emb.w"})}}
                          .Report();
  EXPECT_EQ(StoredFor(*report, "bert.emb.w"), "emb.w");
}

TEST(ReconcilePrefix, IsTakenFromCheckpointKeys) {
  const auto report = ReconcileCase{.stored = {"bert.emb.w"},
                                    .manifest = {.base_model_prefix = "bert", .tensors = Parameters({"emb.w"})}}
                          .Report();
  EXPECT_EQ(StoredFor(*report, "emb.w"), "bert.emb.w");
}

TEST(ReconcilePrefix, OfTheRequestOverridesTheManifests) {
  ReconcileCase test{.stored = {"emb.w"},
                     .manifest = {.base_model_prefix = "bert", .tensors = Parameters({"roberta.emb.w"})}};
  test.rules.base_model_prefix = "roberta";
  EXPECT_EQ(test.Report()->counts.missing, 0u);
  test.rules.base_model_prefix = "";
  EXPECT_EQ(test.Report()->counts.missing, 1u) << "an empty one switches the rule off";
}

// transformers strips first, and so swaps the two tensors of a model that has both names.
TEST(ReconcilePrefix, ExactNamesAreNotSwapped) {
  const auto report =
      ReconcileCase{.stored = {"base.linear.w", "linear.w"},
                    .manifest = {.base_model_prefix = "base", .tensors = Parameters({"linear.w", "base.linear.w"})}}
          .Report();
  EXPECT_EQ(StoredFor(*report, "linear.w"), "linear.w");
  EXPECT_EQ(StoredFor(*report, "base.linear.w"), "base.linear.w");
}

// transformers cuts the prefix and one character, whatever it is.
TEST(ReconcilePrefix, EndsAtADotOnly) {
  const auto report = ReconcileCase{.stored = {"basexlinear.w"},
                                    .manifest = {.base_model_prefix = "base", .tensors = Parameters({"linear.w"})}}
                          .Report();
  EXPECT_THAT(Unexpected(*report), ElementsAre("basexlinear.w"));
  EXPECT_EQ(report->counts.missing, 1u);
}

// With an empty prefix transformers cuts the first character of a key.
TEST(ReconcilePrefix, EmptyOneCutsNothing) {
  const auto report =
      ReconcileCase{.stored = {"xlinear.w", ".b"}, .manifest = {.tensors = Parameters({"linear.w", "b"})}}.Report();
  EXPECT_EQ(report->counts.unexpected, 2u);
  EXPECT_EQ(report->counts.missing, 2u);
}

TEST(ReconcileConflict, TwoRenamedKeysNameBothAndTheirShards) {
  ReconcileCase test{.stored = {"a", "b"}, .manifest = {.tensors = Parameters({"c"}), .renames = {{"^[ab]$", "c"}}}};
  test.stored[1].shard = 1;
  const absl::Status status = test.Run().status();
  EXPECT_EQ(ErrorReason(status), Reason::kKeyConflict);
  const ErrorMetadata details = ErrorDetails(status);
  EXPECT_EQ(details.at("key"), "c");
  EXPECT_EQ(details.at("first"), "a");
  EXPECT_EQ(details.at("second"), "b");
  EXPECT_THAT(std::string(status.message()), HasSubstr("a of a.safetensors"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("b of b.safetensors"));
}

TEST(ReconcileConflict, ExactAndPrefixedKeyOfOneTarget) {
  const ReconcileCase test{.stored = {"base.w", "w"},
                           .manifest = {.base_model_prefix = "base", .tensors = Parameters({"w"})}};
  EXPECT_EQ(ErrorReason(test.Run().status()), Reason::kKeyConflict);
}

TEST(ReconcileConflict, TwoUnexpectedKeysMayShareAName) {
  const auto report = ReconcileCase{.stored = {"a", "b"}, .manifest = {.renames = {{"^[ab]$", "c"}}}}.Report();
  EXPECT_THAT(Unexpected(*report), ElementsAre("c", "c"));
}

TEST(ReconcileRenames, OfTheRequestComeBeforeTheManifests) {
  ReconcileCase test{.stored = {"a"}, .manifest = {.tensors = Parameters({"c"}), .renames = {{"b", "c"}}}};
  test.rules.renames = {{"a", "b"}};
  EXPECT_EQ(StoredFor(*test.Report(), "c"), "a");
}

TEST(ReconcileRenames, ThePrefixAppliesToTheResult) {
  const auto report = ReconcileCase{.stored = {"ln.gamma"},
                                    .manifest = {.base_model_prefix = "m",
                                                 .tensors = Parameters({"m.ln.weight"}),
                                                 .renames = {{"gamma$", "weight"}}}}
                          .Report();
  EXPECT_EQ(StoredFor(*report, "m.ln.weight"), "ln.gamma");
}

TEST(ReconcileRenames, AKeyThatIsTheModelsAlreadyKeepsItsName) {
  const auto report = ReconcileCase{.stored = {"new.w", "v"},
                                    .manifest = {.base_model_prefix = "m",
                                                 .tensors = Parameters({"new.w", "m.v"}),
                                                 .renames = {{"new", "newer"}, {"^v$", "vv"}}}}
                          .Report();
  EXPECT_EQ(StoredFor(*report, "new.w"), "new.w");
  EXPECT_EQ(StoredFor(*report, "m.v"), "v") << "the original falls back to the prefix too";
}

TEST(ReconcileRenames, UnexpectedKeysAreReportedRenamed) {
  const auto report = ReconcileCase{.stored = {"old"}, .manifest = {.renames = {{"old", "new"}}}}.Report();
  EXPECT_THAT(Unexpected(*report), ElementsAre("new"));
  EXPECT_EQ(report->index->tensors()[report->unexpected[0].stored].name, "old");
}

TEST(ReconcileRenames, AnInvalidOneIsNamed) {
  ReconcileCase test;
  test.rules.renames = {{"(", "x"}};
  EXPECT_EQ(ErrorDetails(test.Run().status())["pattern"], "(");
}

TEST(ReconcileIgnore, PatternsOfManifestAndRequestCountTogether) {
  ReconcileCase test{.stored = {"x.mtp.w", "y.w", "z.w"},
                     .manifest = {.tensors = Parameters({"a.inv_freq", "b.bias", "c"}),
                                  .ignore_missing = {"inv_freq"},
                                  .ignore_unexpected = {"\\.mtp\\."}}};
  test.rules.ignore_missing = {"bias$"};
  test.rules.ignore_unexpected = {"^y"};
  const auto report = test.Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kMissingIgnored), ElementsAre("a.inv_freq", "b.bias"));
  EXPECT_THAT(NamesIn(*report, KeyState::kMissing), ElementsAre("c"));
  EXPECT_THAT(UnexpectedIgnored(*report), ElementsAre("x.mtp.w", "y.w"));
  EXPECT_THAT(Unexpected(*report), ElementsAre("z.w"));
  EXPECT_EQ(report->counts.missing_ignored, 2u);
  EXPECT_EQ(report->counts.missing, 1u);
  EXPECT_EQ(report->counts.unexpected_ignored, 2u);
  EXPECT_EQ(report->counts.unexpected, 1u);
}

TEST(ReconcileIgnore, DoesNotTouchFoundOrMismatchedKeys) {
  const auto report = ReconcileCase{.stored = {"a", {"b", {3}}},
                                    .manifest = {.tensors = Parameters({"a", "b"}), .ignore_missing = {"."}}}
                          .Report();
  EXPECT_EQ(KeyNamed(*report, "a").state, KeyState::kFound);
  EXPECT_EQ(KeyNamed(*report, "b").state, KeyState::kMismatched);
}

TEST(ReconcileWithoutManifest, ExpectsWhatIsStoredInNaturalOrder) {
  const auto report = ReconcileCase{.stored = {"l.10", {"l.9", {3, 1}, DType::kF16}}, .has_manifest = false}.Report();
  EXPECT_THAT(Names(*report), ElementsAre("l.9", "l.10"));
  const ModelKey& key = report->keys[0];
  EXPECT_EQ(key.state, KeyState::kFound);
  EXPECT_EQ(key.shape, (Shape{3, 1}));
  EXPECT_EQ(key.dtype, DType::kF16);
  EXPECT_EQ(key.bytes, 6u);
  EXPECT_EQ(key.stored, 1);
  EXPECT_THAT(report->unexpected, IsEmpty());
}

TEST(ReconcileWithoutManifest, IndexOnlyKeysAreMissing) {
  const auto report = ReconcileCase{.stored = {"a.2"}, .index_only = {"a.1", "a.10"}, .has_manifest = false}.Report();
  EXPECT_THAT(Names(*report), ElementsAre("a.1", "a.2", "a.10"));
  EXPECT_THAT(NamesIn(*report, KeyState::kMissing), ElementsAre("a.1", "a.10"));
  EXPECT_EQ(report->keys[0].bytes, 0u);
  EXPECT_EQ(report->counts.expected, 3u);
}

TEST(ReconcileWithoutManifest, AppliesRenamesAndIgnoresThePrefix) {
  ReconcileCase test{.stored = {"base.a"}, .index_only = {"base.b"}, .has_manifest = false};
  test.rules.base_model_prefix = "base";
  test.rules.renames = {{"a$", "weight"}, {"b$", "bias"}};
  EXPECT_THAT(Names(*test.Report()), ElementsAre("base.bias", "base.weight"));
}

TEST(ReconcileWithoutManifest, TwoKeysRenamedToOneAreAConflict) {
  ReconcileCase test{.stored = {"a", "b"}, .has_manifest = false};
  test.rules.renames = {{"b", "a"}};
  const absl::Status status = test.Run().status();
  EXPECT_EQ(ErrorReason(status), Reason::kKeyConflict);
  EXPECT_EQ(ErrorDetails(status)["second"], "b");
}

TEST(ReconcileWithoutManifest, AStoredKeySuppliesARenamedIndexOnlyKey) {
  ReconcileCase test{.stored = {"b"}, .index_only = {"a", "c", "d"}, .has_manifest = false};
  test.rules.renames = {{"b", "a"}, {"d", "c"}};
  const auto report = test.Report();
  EXPECT_THAT(Names(*report), ElementsAre("a", "c"));
  EXPECT_EQ(StoredFor(*report, "a"), "b");
}

TEST(Reconcile, NamesOutliveTheInput) {
  std::shared_ptr<const KeyReport> report;
  {
    ReconcileCase test{.stored = {"x1", "y1"}, .manifest = {.tensors = Parameters({"a"})}};
    test.rules.renames = {{"1", "2"}};
    report = test.Report();
  }
  EXPECT_THAT(Names(*report), ElementsAre("a"));
  EXPECT_THAT(Unexpected(*report), ElementsAre("x2", "y2"));
}

TEST(Reconcile, EndsWhenNobodyWaitsAnyMore) {
  std::vector<StoredKey> stored;
  std::vector<std::string> index_only;
  Manifest manifest;
  for (int i = 0; i < 100; ++i) {
    stored.emplace_back("stored." + std::to_string(i));
    index_only.push_back("index." + std::to_string(i));
    manifest.tensors.push_back(Parameter("expected." + std::to_string(i)));
  }
  std::stop_source stop;
  stop.request_stop();
  const RequestContext context = {.stop = stop.get_token()};
  const KeyRules rules = {.renames = {{.pattern = "x", .replacement = "y"}}};
  for (const bool has_manifest : {true, false}) {
    for (const ReconcileCase& keys :
         {ReconcileCase{.stored = stored, .has_manifest = has_manifest, .manifest = manifest, .rules = rules},
          ReconcileCase{.index_only = index_only, .has_manifest = has_manifest, .rules = rules},
          ReconcileCase{.has_manifest = has_manifest, .manifest = manifest, .rules = rules},
          ReconcileCase{.stored = stored, .has_manifest = has_manifest}}) {
      ReconcileCase cancelled = keys;
      cancelled.context = &context;
      EXPECT_TRUE(keys.Run().ok());
      EXPECT_EQ(ErrorReason(cancelled.Run().status()), Reason::kLoadCancelled);
    }
  }
}

}  // namespace
}  // namespace keyload
