#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/base/error.h"
#include "tests/unit/keys/reconcile_case.h"

namespace keyload {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(ReconcileSelection, KeysNotSelectedAreOnlyCounted) {
  const auto report = ReconcileCase{.stored = {"a.1", {"b.1", {3}}},
                                    .manifest = {.tensors = Parameters({"a.1", "a.2", "b.1", "b.2"})},
                                    .selection = {.include = {"a.*"}}}
                          .Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kNotSelected), ElementsAre("b.1", "b.2"));
  EXPECT_EQ(KeyNamed(*report, "b.1").stored, -1);
  EXPECT_EQ(report->counts.expected, 4u);
  EXPECT_EQ(report->counts.selected, 2u);
  EXPECT_EQ(report->counts.not_selected, 2u);
  EXPECT_EQ(report->counts.missing, 1u);
  EXPECT_EQ(report->counts.mismatched, 0u);
  EXPECT_THAT(report->warnings, IsEmpty());
}

TEST(ReconcileSelection, UnexpectedKeysNotSelectedAreNotListed) {
  const auto report = ReconcileCase{.stored = {"a.x", "b.x", "b.ids"},
                                    .manifest = {.tensors = {Parameter("a.1"), NonPersistent("b.ids")}},
                                    .selection = {.exclude = {"b.*"}}}
                          .Report();
  EXPECT_THAT(Unexpected(*report), ElementsAre("a.x"));
  EXPECT_THAT(UnexpectedIgnored(*report), IsEmpty());
  EXPECT_EQ(report->counts.unexpected, 1u);
  EXPECT_EQ(report->counts.unexpected_ignored, 0u);
}

TEST(ReconcileSelection, SpeaksOfModelSideNames) {
  ReconcileCase test{.stored = {"old.w"},
                     .manifest = {.base_model_prefix = "m", .tensors = Parameters({"m.new.w"})},
                     .selection = {.include = {"m.new.*"}}};
  test.rules.renames = {{"old", "new"}};
  EXPECT_THAT(NamesIn(*test.Report(), KeyState::kFound), ElementsAre("m.new.w"));
}

TEST(ReconcileSelection, AppliesWithoutAManifest) {
  const auto report = ReconcileCase{.stored = {"a", "b"}, .has_manifest = false, .selection = {.keys = {"b"}}}.Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kFound), ElementsAre("b"));
  EXPECT_THAT(NamesIn(*report, KeyState::kNotSelected), ElementsAre("a"));
}

TEST(ReconcileSelection, NamesThatAreNoExpectedKeyGiveOneWarning) {
  const auto report = ReconcileCase{.stored = {"x1"},
                                    .manifest = {.tensors = {Parameter("a"), NonPersistent("ids")}},
                                    .selection = {.keys = {"x1", "a", "x2", "x3", "x1", "ids", "x4", "x5"}}}
                          .Report();
  ASSERT_EQ(report->warnings.size(), 1u);
  EXPECT_THAT(report->warnings[0], HasSubstr("6 selected names"));
  EXPECT_THAT(report->warnings[0], HasSubstr("x1, x2, x3, ids, x4, ..."));
}

TEST(ReconcileSelection, ThatMatchesNothingGivesAWarning) {
  const auto report =
      ReconcileCase{.stored = {"a"}, .manifest = {.tensors = Parameters({"a"})}, .selection = {.include = {"z*"}}}
          .Report();
  ASSERT_EQ(report->warnings.size(), 1u);
  EXPECT_THAT(report->warnings[0], HasSubstr("matches none of 1 expected keys"));
}

TEST(ReconcileSelection, AProviderMustBeSelected) {
  const auto report =
      ReconcileCase{.stored = {"emb"},
                    .manifest = {.tensors = Parameters({"emb", "head"}), .tied_groups = {{"emb", {"head"}}}},
                    .selection = {.keys = {"head"}}}
          .Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kMissing), ElementsAre("head"));
  ASSERT_EQ(report->warnings.size(), 1u);
  EXPECT_THAT(report->warnings[0], HasSubstr("head is tied to emb"));
}

TEST(ReconcileSelection, OnlySelectedMembersOfATiedGroupAreAbsent) {
  const auto report =
      ReconcileCase{.stored = {"emb"},
                    .manifest = {.tensors = Parameters({"emb", "head"}), .tied_groups = {{"emb", {"head"}}}},
                    .selection = {.keys = {"emb"}}}
          .Report();
  EXPECT_EQ(KeyNamed(*report, "head").state, KeyState::kNotSelected);
  EXPECT_EQ(report->counts.missing_tied, 0u);
  EXPECT_THAT(report->warnings, IsEmpty());
}

}  // namespace
}  // namespace keyload
