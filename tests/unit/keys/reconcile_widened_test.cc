// What a loaded model had before it is made wider.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/keys/reconcile_case.h"

namespace keyload {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

using Report = std::shared_ptr<const KeyReport>;

// `test` with another selection, wider than `before`.
Report Widen(ReconcileCase test, const Report& before, KeySelectionSpec selection) {
  test.selection = std::move(selection);
  test.widened = before;
  return test.Report();
}

KeySelectionSpec Named(std::vector<std::string> keys) {
  return {.include = {}, .exclude = {}, .keys = std::move(keys)};
}

ReconcileCase FourStored() {
  return {.stored = {"a", "b", "c", "d", "x1", "x2", "x3"}, .manifest = {.tensors = Parameters({"a", "b", "c", "d"})}};
}

TEST(ReconcileWidened, WhatWasSelectedIsSelectedToo) {
  const Report before = Widen(FourStored(), nullptr, Named({"c"}));
  const Report after = Widen(FourStored(), before, Named({"a"}));
  EXPECT_THAT(NamesIn(*after, KeyState::kFound), ElementsAre("a", "c"));
  EXPECT_EQ(after->counts.selected, 2u);
  EXPECT_EQ(after->counts.not_selected, 2u);
}

TEST(ReconcileWidened, WithoutAManifestToo) {
  const ReconcileCase test{.stored = {"a", "b", "c"}, .has_manifest = false};
  const Report after = Widen(test, Widen(test, nullptr, Named({"c"})), Named({"a"}));
  EXPECT_THAT(NamesIn(*after, KeyState::kFound), ElementsAre("a", "c"));
}

TEST(ReconcileWidened, UnexpectedKeysThatWereListedStayListed) {
  const Report before = Widen(FourStored(), nullptr, {.include = {"a", "x1"}, .exclude = {}, .keys = {}});
  const Report after = Widen(FourStored(), before, {.include = {"x3"}, .exclude = {}, .keys = {}});
  EXPECT_THAT(Unexpected(*after), ElementsAre("x1", "x3"));
  EXPECT_EQ(after->counts.unexpected, 2u);
}

TEST(ReconcileWidened, WarningsAreAboutTheNewSelection) {
  const Report before = Widen(FourStored(), nullptr, Named({"a", "unknown"}));
  EXPECT_THAT(Widen(FourStored(), before, Named({"b"}))->warnings, IsEmpty());
  EXPECT_THAT(Widen(FourStored(), before, {.include = {"z*"}, .exclude = {}, .keys = {}})->warnings,
              ElementsAre(HasSubstr("matches none of 4 expected keys")));
}

TEST(ReconcileWidened, AModelWithOtherKeysCountsForNothing) {
  ReconcileCase other = FourStored();
  other.manifest.tensors.pop_back();
  const Report after = Widen(FourStored(), Widen(other, nullptr, {}), Named({"d"}));
  EXPECT_THAT(NamesIn(*after, KeyState::kFound), ElementsAre("d"));
}

TEST(ReconcileWidened, TenThousandTimesNothingOfTheEarlierReportsIsKept) {
  const ReconcileCase test = FourStored();
  Report report = Widen(test, nullptr, Named({"a"}));
  const std::weak_ptr<const KeyReport> first = report;
  for (int i = 0; i < 10'000; ++i) report = Widen(test, report, Named({i % 2 == 0 ? "b" : "c"}));
  EXPECT_TRUE(first.expired());
  EXPECT_EQ(report.use_count(), 1);
  EXPECT_THAT(NamesIn(*report, KeyState::kFound), ElementsAre("a", "b", "c"));
  EXPECT_THAT(report->warnings, IsEmpty());
}

// "src" supplies the others, if nothing is there yet; "t1" and "t3" are not stored.
ReconcileCase Tied() {
  return {.stored = {"src", "t2"},
          .manifest = {.tensors = Parameters({"src", "t1", "t2", "t3"}), .tied_groups = {{"src", {"t1", "t2", "t3"}}}}};
}

std::string ProviderOf(const KeyReport& report, std::string_view key) {
  const int64_t provider = KeyNamed(report, key).tied_to;
  return provider < 0 ? "" : std::string(report.keys[provider].name);
}

TEST(ReconcileWidened, ATiedKeyKeepsItsProvider) {
  const Report before = Widen(Tied(), nullptr, Named({"t1", "t2"}));
  ASSERT_EQ(ProviderOf(*before, "t1"), "t2");
  const Report after = Widen(Tied(), before, Named({"src"}));
  EXPECT_EQ(ProviderOf(*after, "t1"), "t2");
  EXPECT_THAT(NamesIn(*after, KeyState::kFound), ElementsAre("src", "t2"));
}

TEST(ReconcileWidened, ANewTiedKeyHasItsBytesFromAMemberThatIsThere) {
  const Report before = Widen(Tied(), nullptr, Named({"t2"}));
  EXPECT_EQ(ProviderOf(*Widen(Tied(), before, Named({"src", "t1"})), "t1"), "t2");
}

TEST(ReconcileWidened, ANewTiedKeyHasTheProviderOfItsGroup) {
  const Report one = Widen(Tied(), nullptr, Named({"t2"}));
  const Report two = Widen(Tied(), one, Named({"src", "t1"}));
  const Report three = Widen(Tied(), two, Named({"t3"}));
  EXPECT_EQ(ProviderOf(*three, "t1"), "t2");
  EXPECT_EQ(ProviderOf(*three, "t3"), "t2");
}

TEST(ReconcileWidened, AMissingKeyIsSuppliedOnceItsProviderComes) {
  const Report before = Widen(Tied(), nullptr, Named({"t1"}));
  ASSERT_EQ(before->counts.missing, 1u);
  const Report after = Widen(Tied(), before, Named({"src"}));
  EXPECT_EQ(ProviderOf(*after, "t1"), "src");
  EXPECT_EQ(after->counts.missing, 0u);
}

TEST(ReconcileWidened, AProviderThatIsTiedNoLongerSuppliesNothing) {
  const Report before = Widen(Tied(), nullptr, Named({"t1", "t2"}));
  ReconcileCase untied = Tied();
  untied.manifest.tied_groups = {{"src", {"t1"}}};
  EXPECT_EQ(ProviderOf(*Widen(untied, before, Named({"src"})), "t1"), "src");
}

}  // namespace
}  // namespace keyload
