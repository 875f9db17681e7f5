// Loads that end with a model, plans, and loads that are refused before a byte is read.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ostream>

#include "server/base/error.h"
#include "server/base/strings.h"
#include "tests/unit/service/loader_node.h"

namespace keyload {
namespace {

using testing::ElementsAre;

std::vector<TestTensor> TwoTensors() {
  return {{.name = "layer.0.weight", .dtype = DType::kF32, .shape = {16, 16}, .data = ""},
          {.name = "layer.1.weight", .dtype = DType::kF32, .shape = {16, 16}, .data = ""}};
}

TEST(LoaderServiceReport, AWholeCheckpointIsComplete) {
  LoaderNode node;
  WriteSafetensors(node.dir() + "/model.safetensors", TwoTensors());
  const absl::StatusOr<LoadReport> report = node.Load(node.Spec());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kComplete);
  EXPECT_EQ(report->model, "m");
  EXPECT_EQ(report->keys.expected, 2);
  EXPECT_EQ(report->keys.loaded, 2);
  EXPECT_EQ(report->bytes.selected, 2048);
  EXPECT_EQ(report->bytes.read, 2048);
  EXPECT_GT(report->generation, 0);
}

TEST(LoaderServiceReport, TheLoadedBytesAreThoseOfTheFile) {
  LoaderNode node;
  WriteSafetensors(node.dir() + "/model.safetensors", TwoTensors());
  ASSERT_TRUE(node.Load(node.Spec()).ok());
  EXPECT_TRUE(node.ReadKey("m", "layer.1.weight") == PatternBytes("layer.1.weight", 1024));
}

TEST(LoaderServiceReport, ThePhasesSumToTheTotal) {
  LoaderNode node;
  WriteSafetensors(node.dir() + "/model.safetensors", TwoTensors());
  const absl::StatusOr<LoadReport> report = node.Load(node.Spec());
  ASSERT_TRUE(report.ok());
  absl::Duration sum;
  std::vector<std::string> names;
  for (const Phase& phase : report->phases) {
    sum += phase.duration;
    names.push_back(phase.name);
  }
  EXPECT_EQ(sum, report->total);
  EXPECT_THAT(names,
              ElementsAre("queue", "open", "index", "reconcile", "place", "plan", "reserve", "transfer", "publish"));
}

TEST(LoaderServiceReport, TheModelKeepsItsReport) {
  LoaderNode node;
  WriteSafetensors(node.dir() + "/model.safetensors", TwoTensors());
  const absl::StatusOr<LoadReport> report = node.Load(node.Spec());
  const absl::StatusOr<ModelHandle> model = node.registry().Use("m");
  ASSERT_TRUE(report.ok() && model.ok());
  EXPECT_EQ((*model)->report().load, report->load);
  EXPECT_EQ((*model)->report().generation, report->generation);
  EXPECT_EQ((*model)->report().outcome, Outcome::kComplete);
}

TEST(LoaderServiceReport, TheObserverHearsAcceptedThenPlannedThenOneEnd) {
  LoaderNode node;
  WriteSafetensors(node.dir() + "/model.safetensors", TwoTensors());
  const LoaderNode::Started load = node.Start(node.Spec());
  ASSERT_TRUE(load.observer->WaitForEnd().ok());
  EXPECT_THAT(load.observer->events(), ElementsAre("accepted", "planned", "end"));
}

TEST(LoaderServiceReport, AMissingKeyOfTheManifestMakesItIncomplete) {
  LoaderNode node;
  WriteSafetensors(node.dir() + "/model.safetensors", TwoTensors());
  LoadSpec spec = node.Spec();
  spec.expected.manifest = ManifestOf({"layer.0.weight", "layer.10.weight", "layer.2.weight"}, {16, 16});
  const absl::StatusOr<LoadReport> report = node.Load(spec);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kIncomplete);
  EXPECT_EQ(report->expected_from, ExpectedFrom::kManifest);
  EXPECT_EQ(report->keys.loaded, 1);
  EXPECT_THAT(report->missing_keys, ElementsAre("layer.2.weight", "layer.10.weight"));
  EXPECT_THAT(report->unexpected_keys, ElementsAre("layer.1.weight"));
}

TEST(LoaderServiceReport, AMismatchedShapeMakesItIncomplete) {
  LoaderNode node;
  WriteSafetensors(node.dir() + "/model.safetensors", TwoTensors());
  LoadSpec spec = node.Spec();
  spec.expected.manifest = ManifestOf({"layer.0.weight", "layer.1.weight"}, {16, 8});
  const absl::StatusOr<LoadReport> report = node.Load(spec);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kIncomplete);
  EXPECT_EQ(report->keys.mismatched, 2);
  EXPECT_EQ(report->keys.loaded, 0);
}

TEST(LoaderServiceReport, NamesStopAtTheLimitButCountsDoNot) {
  LoaderNode node;
  WriteSafetensors(node.dir() + "/model.safetensors", TwoTensors());
  LoadSpec spec = node.Spec();
  spec.expected.manifest = ManifestOf({"a", "b", "c"}, {1});
  spec.name_limit = 1;
  const absl::StatusOr<LoadReport> report = node.Load(spec);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->keys.missing, 3);
  EXPECT_THAT(report->missing_keys, ElementsAre("a"));
  EXPECT_THAT(report->unexpected_keys, ElementsAre("layer.0.weight"));
}

TEST(LoaderServiceReport, AKeyListSelectsWhatItNames) {
  LoaderNode node;
  WriteSafetensors(node.dir() + "/model.safetensors", TwoTensors());
  LoadSpec spec = node.Spec();
  spec.key_list_digest = node.documents().AddKeyList("layer.1.weight\n")->digest;
  const absl::StatusOr<LoadReport> report = node.Load(spec);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->keys.loaded, 1);
  EXPECT_EQ(report->keys.not_selected, 1);
  EXPECT_EQ(report->bytes.read, 1024);
}

TEST(LoaderServiceReport, AManifestMayLieOnTheServer) {
  LoaderNode node;
  WriteSafetensors(node.dir() + "/model.safetensors", TwoTensors());
  WriteFile(node.dir() + "/manifest", "absent\n");
  LoadSpec spec = node.Spec();
  spec.expected.manifest_path = node.dir() + "/manifest";
  const absl::StatusOr<LoadReport> report = node.Load(spec);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(report->missing_keys, ElementsAre("absent"));
}

TEST(LoaderServiceReport, AManifestOnTheServerMustLieInARoot) {
  LoaderNode node;
  TempDir elsewhere;
  WriteFile(elsewhere.File("manifest"), "absent\n");
  LoadSpec spec = node.Spec();
  spec.expected.manifest_path = elsewhere.File("manifest");
  EXPECT_EQ(ErrorReason(node.Load(spec).status()), Reason::kPathNotAllowed);
}

TEST(LoaderServiceReport, OverALimitItIsRejectedBeforeAnyRead) {
  LoaderNode node;
  WriteSafetensors(node.dir() + "/model.safetensors", TwoTensors());
  LoadSpec spec = node.Spec();
  spec.expected.manifest = ManifestOf({"layer.0.weight", "layer.2.weight"}, {16, 16});
  spec.limits.max_missing = 0;
  const absl::StatusOr<LoadReport> report = node.Load(spec);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kRejected);
  EXPECT_EQ(report->keys.loaded, 0);
  EXPECT_EQ(report->generation, 0);
  EXPECT_EQ(node.readers_made(), 0);
  EXPECT_EQ(node.gpu().allocations(), 0);
  EXPECT_EQ(ErrorReason(node.registry().Info("m").status()), Reason::kModelNotFound);
}

TEST(LoaderServiceReport, AtALimitItIsNotRejected) {
  LoaderNode node;
  WriteSafetensors(node.dir() + "/model.safetensors", TwoTensors());
  LoadSpec spec = node.Spec();
  spec.expected.manifest = ManifestOf({"layer.0.weight", "layer.2.weight"}, {16, 16});
  spec.limits = {.max_missing = 1, .max_unexpected = 1, .max_mismatched = 0};
  const absl::StatusOr<LoadReport> report = node.Load(spec);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kIncomplete);
}

TEST(LoaderServiceReport, APlanChangesNothing) {
  LoaderNode node;
  WriteSafetensors(node.dir() + "/model.safetensors", TwoTensors());
  const absl::StatusOr<LoadReport> report = node.service().Plan(node.Spec(), {});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kPlanned);
  EXPECT_EQ(report->bytes.selected, 2048);
  EXPECT_EQ(report->keys.loaded, 0);
  EXPECT_EQ(node.readers_made(), 0);
  EXPECT_EQ(node.gpu().account().state().free(), node.gpu().account().state().capacity);
  EXPECT_TRUE(node.registry().List().empty());
}

TEST(LoaderServiceReport, APlanOverALimitIsRejected) {
  LoaderNode node;
  WriteSafetensors(node.dir() + "/model.safetensors", TwoTensors());
  LoadSpec spec = node.Spec();
  spec.expected.manifest = ManifestOf({"absent"}, {1});
  spec.limits.max_missing = 0;
  const absl::StatusOr<LoadReport> report = node.service().Plan(spec, {});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kRejected);
}

TEST(LoaderServiceReport, APlanMayBeForHardwareThatIsNotHere) {
  LoaderNode node;
  WriteSafetensors(node.dir() + "/model.safetensors", TwoTensors());
  LoadSpec spec = node.Spec();
  spec.device_map.policy = "cuda:3";
  spec.plan_for = {{.name = "cuda:3", .uuid = "", .free_bytes = 1 << 20}};
  const absl::StatusOr<LoadReport> report = node.service().Plan(spec, {});
  ASSERT_TRUE(report.ok()) << report.status();
  ASSERT_EQ(report->devices.size(), 1);
  EXPECT_EQ(report->devices[0].device, "cuda:3");
}

TEST(LoaderServiceReport, HardwareThatIsNotHereIsForPlansOnly) {
  LoaderNode node;
  LoadSpec spec = node.Spec();
  spec.plan_for = {{.name = "cuda:3", .uuid = "", .free_bytes = 1 << 20}};
  EXPECT_EQ(ErrorReason(node.Load(spec).status()), Reason::kBadRequest);
}

TEST(LoaderServiceReport, MoreDevicesThanAnyNodeHasAreRefused) {
  LoaderNode node;
  WriteSafetensors(node.dir() + "/model.safetensors", TwoTensors());
  LoadSpec spec = node.Spec();
  spec.device_map.policy = "auto";
  for (int i = 0; i < 1024; ++i) spec.plan_for.push_back({.name = StrCat("cuda:", i), .free_bytes = 1 << 20});
  EXPECT_TRUE(node.service().Plan(spec, {}).ok());
  spec.plan_for.push_back({.name = "cuda:1024", .free_bytes = 1 << 20});
  EXPECT_EQ(ErrorDetails(node.service().Plan(spec, {}).status())["field"], "spec.device_map.plan_for");
  spec.plan_for.clear();
  for (int i = 0; i < 1025; ++i) spec.device_map.max_memory.emplace_back(StrCat("cuda:", i), 1);
  EXPECT_EQ(ErrorDetails(node.service().Plan(spec, {}).status())["field"], "spec.device_map.max_memory");
}

TEST(LoaderServiceReport, ACheckpointThatIsNotThereEndsWithoutAPlan) {
  LoaderNode node;
  const LoaderNode::Started load = node.Start(node.Spec());
  EXPECT_EQ(ErrorReason(load.observer->WaitForEnd().status()), Reason::kCheckpointNotFound);
  EXPECT_THAT(load.observer->events(), ElementsAre("accepted", "end"));
}

TEST(LoaderServiceReport, ADtypeNeedsLibTorch) {
  LoaderNode node;
  WriteSafetensors(node.dir() + "/model.safetensors", TwoTensors());
  LoadSpec spec = node.Spec();
  spec.dtype = DType::kBF16;
  const std::vector<std::string> capabilities = node.service().Capabilities();
  if (std::count(capabilities.begin(), capabilities.end(), "dtype_conversion") > 0)
    GTEST_SKIP() << "built with LibTorch";
  EXPECT_EQ(ErrorReason(node.Load(spec).status()), Reason::kDtypeNotSupported);
  EXPECT_EQ(ErrorReason(node.service().Plan(spec, {}).status()), Reason::kDtypeNotSupported);
}

TEST(LoaderServiceReport, AnIntegerDtypeIsNeverWanted) {
  LoaderNode node;
  LoadSpec spec = node.Spec();
  spec.dtype = DType::kI32;
  EXPECT_EQ(ErrorReason(node.Load(spec).status()), Reason::kDtypeNotSupported);
}

struct BadSpec {
  const char* field;
  void (*spoil)(LoadSpec&);
};
void PrintTo(const BadSpec& tested, std::ostream* out) { *out << tested.field; }
class LoaderServiceValidation : public testing::TestWithParam<BadSpec> {};

TEST_P(LoaderServiceValidation, NamesTheFieldBeforeItAccepts) {
  LoaderNode node;
  LoadSpec spec = node.Spec();
  GetParam().spoil(spec);
  const LoaderNode::Started load = node.Start(spec);
  const absl::Status status = load.observer->WaitForEnd().status();
  EXPECT_EQ(ErrorReason(status), Reason::kBadRequest);
  EXPECT_EQ(ErrorDetails(status)["field"], GetParam().field);
  EXPECT_THAT(load.observer->events(), ElementsAre("end"));
}

INSTANTIATE_TEST_SUITE_P(
    All, LoaderServiceValidation,
    testing::Values(BadSpec{"spec.model", [](LoadSpec& spec) { spec.model = ""; }},
                    BadSpec{"spec.model", [](LoadSpec& spec) { spec.model = "../m"; }},
                    BadSpec{"spec.model", [](LoadSpec& spec) { spec.model = std::string(129, 'm'); }},
                    BadSpec{"spec.source.path", [](LoadSpec& spec) { spec.source.path = ""; }},
                    BadSpec{"spec.name_limit", [](LoadSpec& spec) { spec.name_limit = 10'001; }},
                    BadSpec{"spec.expected.from",
                            [](LoadSpec& spec) { spec.expected.from = ExpectedSpec::From::kManifest; }},
                    BadSpec{"spec.expected.from",
                            [](LoadSpec& spec) {
                              spec.expected.from = ExpectedSpec::From::kCheckpoint;
                              spec.expected.manifest_path = "/m";
                            }},
                    BadSpec{"spec.expected.from",
                            [](LoadSpec& spec) {
                              spec.expected.from = ExpectedSpec::From::kConfig;
                              spec.expected.manifest_path = "/m";
                            }},
                    BadSpec{"spec.expected", [](LoadSpec& spec) {
                              spec.expected.manifest_path = "/m";
                              spec.expected.manifest_digest = "sha256:0";
                            }}));

TEST(LoaderServiceReport, AnIndexThatDisagreesWithItsShardsIsAWarning) {
  LoaderNode node;
  WriteSafetensors(node.dir() + "/a.safetensors", TwoTensors());
  WriteIndex(node.dir() + "/model.safetensors.index.json",
             {{"layer.0.weight", "a.safetensors"}, {"layer.9.weight", "a.safetensors"}});
  const absl::StatusOr<LoadReport> report = node.Load(node.Spec());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kIncomplete);
  EXPECT_THAT(report->missing_keys, ElementsAre("layer.9.weight"));
  EXPECT_THAT(report->warnings,
              ElementsAre(testing::HasSubstr("layer.9.weight"), testing::HasSubstr("layer.1.weight")));
}

}  // namespace
}  // namespace keyload
