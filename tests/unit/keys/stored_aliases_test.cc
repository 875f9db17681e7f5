#include "server/keys/stored_aliases.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/keys/reconcile_case.h"

namespace keyload {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(StoredAliases, ASupplierIsWhatTheFileNames) {
  const auto report = ReconcileCase{.stored = {"embed", "x"},
                                    .aliases = {{"head", "embed"}},
                                    .manifest = {.tensors = Parameters({"embed", "x", "head"})}}
                          .Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kTied), ElementsAre("head"));
  EXPECT_EQ(report->keys[KeyNamed(*report, "head").tied_to].name, "embed");
}

TEST(StoredAliases, TheyAreKeysOfACheckpointThatIsExpectedItself) {
  const auto report =
      ReconcileCase{.stored = {{"embed", {3, 5}}, "x"}, .aliases = {{"head", "embed"}}, .has_manifest = false}.Report();
  EXPECT_THAT(Names(*report), ElementsAre("embed", "head", "x"));
  EXPECT_EQ(KeyNamed(*report, "head").shape, (Shape{3, 5}));
  EXPECT_EQ(report->counts.missing_tied, 1u);
  EXPECT_EQ(report->counts.missing, 0u);
}

TEST(StoredAliases, RenamesAndPrefixesApplyToBothNames) {
  const auto report =
      ReconcileCase{.stored = {"old.embed"},
                    .aliases = {{"old.head", "old.embed"}},
                    .manifest = {.base_model_prefix = "model", .tensors = Parameters({"model.embed", "head"})},
                    .rules = {.renames = {{"^old\\.", ""}}}}
          .Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kTied), ElementsAre("head"));
}

TEST(StoredAliases, TheyJoinGroupsOfTheManifest) {
  const auto report =
      ReconcileCase{.stored = {"c"},
                    .aliases = {{"d", "c"}, {"b", "c"}},
                    .manifest = {.tensors = Parameters({"a", "b", "c", "d"}), .tied_groups = {{"a", {"b"}}}}}
          .Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kTied), ElementsAre("a", "b", "d"));
  EXPECT_THAT(NamesIn(*report, KeyState::kMissing), ElementsAre());
}

TEST(StoredAliases, AnotherShapeAStoredKeyAndAnUnknownNameDoNotCount) {
  const auto report = ReconcileCase{.stored = {"c", "a"},
                                    .aliases = {{"a", "c"}, {"b", "c"}, {"z", "c"}},
                                    .manifest = {.tensors = {Parameter("a"), Parameter("b", {7}), Parameter("c")}}}
                          .Report();
  EXPECT_THAT(NamesIn(*report, KeyState::kTied), IsEmpty());
  EXPECT_THAT(NamesIn(*report, KeyState::kMissing), ElementsAre("b"));
  EXPECT_THAT(Unexpected(*report), IsEmpty());
}

}  // namespace
}  // namespace keyload
