// The report of a Materialize, and the limits that look at it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/base/strings.h"
#include "tests/unit/service/loader_node.h"

namespace keyload {
namespace {

using testing::ElementsAre;

class MaterializeReport : public testing::Test {
 protected:
  // Of every layer: a is loaded, b and an ignored one are missing, c and d have another shape, e and an ignored one are
  // unexpected, t is tied to a.
  MaterializeReport() {
    std::vector<TestTensor> stored;
    std::vector<std::string> expected;
    std::vector<TiedGroup> tied;
    for (int i = 8; i < 12; ++i) {
      const std::string layer = StrCat("layers.", i, ".");
      for (const char* part : {"a", "e", "e.ignored"}) {
        stored.push_back({.name = layer + part, .dtype = DType::kF32, .shape = {64}, .data = ""});
      }
      for (const char* part : {"d", "c"}) {
        stored.push_back({.name = layer + part, .dtype = DType::kF16, .shape = {8}, .data = ""});
      }
      for (const char* part : {"a", "b", "b.ignored", "c", "d", "t"}) expected.push_back(layer + part);
      tied.push_back({.source = layer + "a", .targets = {layer + "t"}});
    }
    WriteSafetensors(node_.dir() + "/model.safetensors", stored);
    manifest_ = ManifestOf(expected, {64}, tied);
  }

  LoadSpec Spec(const std::string& model) const {
    LoadSpec spec = node_.Spec(model);
    spec.expected.manifest = manifest_;
    spec.rules.ignore_missing = {"b\\.ignored"};
    spec.rules.ignore_unexpected = {"e\\.ignored"};
    return spec;
  }
  void LoadLazily() {
    LoadSpec spec = Spec("m");
    spec.residency = LoadSpec::Residency::kLazy;
    ASSERT_EQ(node_.Load(spec)->outcome, Outcome::kIncomplete);
  }
  static std::vector<std::string> MismatchedNames(const LoadReport& report) {
    std::vector<std::string> names;
    for (const MismatchedKey& key : report.mismatched_keys) names.push_back(key.key);
    return names;
  }

  LoaderNode node_;
  std::shared_ptr<const Manifest> manifest_;
};

TEST_F(MaterializeReport, NamesWhatIsMissingMismatchedAndUnexpectedInTheSelection) {
  LoadLazily();
  const absl::StatusOr<LoadReport> report =
      node_.Materialize({.include = {"layers.{9,10}.*"}, .exclude = {}, .keys = {}});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kIncomplete);
  EXPECT_THAT(report->missing_keys, ElementsAre("layers.9.b", "layers.10.b"));
  EXPECT_THAT(report->unexpected_keys, ElementsAre("layers.9.e", "layers.10.e"));
  ASSERT_THAT(MismatchedNames(*report), ElementsAre("layers.9.c", "layers.9.d", "layers.10.c", "layers.10.d"));
  EXPECT_THAT(report->mismatched_keys[0].expected_shape, ElementsAre(64));
  EXPECT_THAT(report->mismatched_keys[0].found_shape, ElementsAre(8));
  EXPECT_EQ(report->mismatched_keys[0].expected_dtype, DType::kF32);
  EXPECT_EQ(report->mismatched_keys[0].found_dtype, DType::kF16);
}

TEST_F(MaterializeReport, AgreesWithAnEagerLoadOfTheSameKeys) {
  const std::vector<KeySelectionSpec> selections = {
      {},
      {.include = {"layers.9.*"}, .exclude = {}, .keys = {}},
      {.include = {}, .exclude = {"layers.8.*"}, .keys = {}},
      {.include = {"*.b", "*.e*"}, .exclude = {"layers.11.*"}, .keys = {}},
      {.include = {"layers.10.*"}, .exclude = {"*.{c,e}"}, .keys = {}},
      {.include = {}, .exclude = {}, .keys = {"layers.9.a", "layers.11.d"}},
      {.include = {"nothing.*"}, .exclude = {}, .keys = {}},
  };
  LoadLazily();
  for (const KeySelectionSpec& select : selections) {
    SCOPED_TRACE(testing::PrintToString(select.include) + testing::PrintToString(select.exclude));
    LoadSpec spec = Spec("eager");
    spec.select = select;
    const absl::StatusOr<LoadReport> eager = node_.Load(spec);
    const absl::StatusOr<LoadReport> report = node_.Materialize(select);
    ASSERT_TRUE(eager.ok() && report.ok()) << eager.status() << report.status();
    EXPECT_EQ(report->outcome, eager->outcome);
    EXPECT_EQ(report->keys.expected, eager->keys.expected);
    EXPECT_EQ(report->keys.selected, eager->keys.selected);
    EXPECT_EQ(report->keys.not_selected, eager->keys.not_selected);
    EXPECT_EQ(report->keys.loaded, eager->keys.loaded);
    EXPECT_EQ(report->keys.lazy, eager->keys.lazy);
    EXPECT_EQ(report->keys.missing, eager->keys.missing);
    EXPECT_EQ(report->keys.missing_ignored, eager->keys.missing_ignored);
    EXPECT_EQ(report->keys.missing_tied, eager->keys.missing_tied);
    EXPECT_EQ(report->keys.unexpected, eager->keys.unexpected);
    EXPECT_EQ(report->keys.unexpected_ignored, eager->keys.unexpected_ignored);
    EXPECT_EQ(report->keys.mismatched, eager->keys.mismatched);
    EXPECT_EQ(report->missing_keys, eager->missing_keys);
    EXPECT_EQ(report->unexpected_keys, eager->unexpected_keys);
    EXPECT_EQ(MismatchedNames(*report), MismatchedNames(*eager));
    EXPECT_EQ(report->bytes.selected, eager->bytes.selected);
    ASSERT_TRUE(node_.Unload("eager").ok());
  }
}

TEST_F(MaterializeReport, UnexpectedKeysOfTheSelectionAreLimited) {
  LoadLazily();
  const KeySelectionSpec select = {.include = {"layers.{9,10}.*"}, .exclude = {}, .keys = {}};
  const absl::StatusOr<LoadReport> rejected = node_.Materialize(select, {}, {.max_unexpected = 1});
  ASSERT_TRUE(rejected.ok()) << rejected.status();
  EXPECT_EQ(rejected->outcome, Outcome::kRejected);
  EXPECT_EQ(rejected->keys.loaded, 0);
  EXPECT_EQ(node_.reads().bytes(), 0);
  EXPECT_EQ(node_.Materialize(select, {}, {.max_unexpected = 2})->outcome, Outcome::kIncomplete);
}

TEST_F(MaterializeReport, MismatchedKeysOfTheSelectionAreLimited) {
  LoadLazily();
  const KeySelectionSpec select = {.include = {"layers.9.*"}, .exclude = {}, .keys = {}};
  EXPECT_EQ(node_.Materialize(select, {}, {.max_mismatched = 1})->outcome, Outcome::kRejected);
  EXPECT_EQ(node_.Materialize(select, {}, {.max_mismatched = 2})->outcome, Outcome::kIncomplete);
}

}  // namespace
}  // namespace keyload
