#include "client/cli/gate_verdict.h"

#include "client/cli/absent_files.h"
#include "client/cli/check_output.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/client/temporary_folder.h"

namespace keyload::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

v1::LoadReport Planned(v1::ExpectedKeys::From from = v1::ExpectedKeys::FROM_CONFIG) {
  v1::LoadReport report;
  report.set_outcome(v1::LoadReport::OUTCOME_PLANNED);
  report.set_expected_from(from);
  report.set_compared_with(from == v1::ExpectedKeys::FROM_CONFIG ? "config.json (X)" : "nothing: no template");
  return report;
}

v1::LoadReport WithMissing(const std::vector<std::string>& names) {
  v1::LoadReport report = Planned();
  report.mutable_keys()->set_missing(names.size());
  report.mutable_missing_keys()->Add(names.begin(), names.end());
  return report;
}

v1::LoadReport WithFinding(uint64_t count) {
  v1::LoadReport report = Planned(v1::ExpectedKeys::FROM_CHECKPOINT);
  v1::Finding& finding = *report.add_findings();
  finding.set_rule("alike");
  finding.set_count(count);
  finding.add_names("layers.1.q");
  finding.set_lacks(true);
  return report;
}

GateRules Check() { return {.compares = true}; }

TEST(GateVerdict, NothingMissingIsComplete) { EXPECT_EQ(Judge(Planned(), Check()).code, 0); }

TEST(GateVerdict, MissingAndMismatchedKeysNeedALimitToPass) {
  GateRules rules = Check();
  EXPECT_EQ(Judge(WithMissing({"a", "b"}), rules).code, 1);
  EXPECT_THAT(Judge(WithMissing({"a", "b"}), rules).sentence, HasSubstr("2 missing. "));
  rules.limits.set_max_missing(1);
  EXPECT_THAT(Judge(WithMissing({"a", "b"}), rules).sentence, HasSubstr("2 missing (1 allowed)"));
  rules.limits.set_max_missing(2);
  EXPECT_EQ(Judge(WithMissing({"a", "b"}), rules).code, 0);
  v1::LoadReport mismatched = Planned();
  mismatched.mutable_keys()->set_mismatched(1);
  EXPECT_EQ(Judge(mismatched, rules).code, 1);
}

TEST(GateVerdict, WithoutWeightsKeysMayBeMissing) {
  GateRules rules = Check();
  rules.no_weights_allowed = true;
  EXPECT_EQ(Judge(WithMissing({"a"}), rules).code, 0);
  rules.limits.set_max_missing(0);
  EXPECT_EQ(Judge(WithMissing({"a"}), rules).code, 1);
}

TEST(GateVerdict, UnexpectedKeysNeedALimitToFail) {
  v1::LoadReport report = Planned();
  report.mutable_keys()->set_unexpected(3);
  GateRules rules = Check();
  EXPECT_EQ(Judge(report, rules).code, 0);
  rules.limits.set_max_unexpected(2);
  EXPECT_EQ(Judge(report, rules).code, 1);
}

TEST(GateVerdict, NothingComparedIsSevenForCheckAlone) {
  const v1::LoadReport report = Planned(v1::ExpectedKeys::FROM_CHECKPOINT);
  GateRules rules = Check();
  EXPECT_EQ(Judge(report, rules).code, 7);
  rules.own_keys_asked = true;
  EXPECT_EQ(Judge(report, rules).code, 0);
  EXPECT_EQ(Judge(report, {}).code, 0);
}

TEST(GateVerdict, AFindingOutweighsThatNothingWasCompared) {
  GateRules rules = Check();
  EXPECT_EQ(Judge(WithFinding(2), rules).code, 1);
  rules.own_keys_asked = true;
  EXPECT_EQ(Judge(WithFinding(2), rules).code, 0);
  rules.limits.set_max_missing(1);
  EXPECT_EQ(Judge(WithFinding(2), rules).code, 1);
  EXPECT_EQ(Judge(WithFinding(2), {}).code, 0) << "plan and load have it as a warning";
  v1::LoadReport remark = WithFinding(2);
  remark.mutable_findings(0)->set_lacks(false);
  EXPECT_EQ(Judge(remark, Check()).code, 7);
}

TEST(GateVerdict, ReportOnlyEndsWithZero) {
  GateRules rules = Check();
  rules.report_only = true;
  EXPECT_EQ(Judge(WithMissing({"a"}), rules).code, 0);
  EXPECT_EQ(Judge(Planned(v1::ExpectedKeys::FROM_CHECKPOINT), rules).code, 0);
  EXPECT_THAT(Judge(WithMissing({"a"}), rules).sentence, HasSubstr("1 missing"));
  EXPECT_EQ(Judge(Planned(), rules).sentence, "complete");
}

TEST(GateVerdict, ALoadThatWasRejectedFailsThoughOnlyAReportIsWanted) {
  v1::LoadReport report = WithMissing({"a"});
  report.set_outcome(v1::LoadReport::OUTCOME_REJECTED);
  EXPECT_EQ(Judge(report, {.report_only = true, .loads = true}).code, 1);
  EXPECT_EQ(Judge(report, {.report_only = true}).code, 0) << "a plan";
  report.set_outcome(v1::LoadReport::OUTCOME_INCOMPLETE);
  EXPECT_EQ(Judge(report, {.report_only = true, .loads = true}).code, 0);
  EXPECT_EQ(Judge(report, {}).code, 1);
}

TEST(GateVerdict, AFailedLoadKeepsItsCode) {
  v1::LoadReport report;
  report.set_outcome(v1::LoadReport::OUTCOME_CANCELLED);
  EXPECT_EQ(Judge(report, {.report_only = true}).code, 5);
}

TEST(GateVerdict, TheWorstOfSeveralCounts) {
  EXPECT_EQ(Worse(kExitDone, kExitNothingCompared), 7);
  EXPECT_EQ(Worse(kExitNothingCompared, kExitNotComplete), 1);
  EXPECT_EQ(Worse(kExitNotComplete, kExitNothingCompared), 1);
  EXPECT_EQ(Worse(kExitNotComplete, kExitFailed), 6);
  EXPECT_EQ(Worse(kExitFailed, kExitUsage), 6);
}

TEST(Baseline, KnownKeysDoNotCount) {
  TemporaryFolder folder;
  const std::string path = folder.Write("known.json", Dump(ToJson(WithMissing({"a", "c"}))));
  const auto known = Baseline::Read(path);
  ASSERT_TRUE(known.ok()) << known.status();
  GateRules rules = Check();
  rules.known = &*known;
  EXPECT_EQ(Judge(WithMissing({"a", "c"}), rules).code, 0);
  EXPECT_EQ(Judge(WithMissing({"a", "c"}), rules).sentence, "complete; 2 known from the baseline");
  const GateVerdict verdict = Judge(WithMissing({"a", "b", "c"}), rules);
  EXPECT_EQ(verdict.code, 1);
  EXPECT_EQ(verdict.counts.missing, 1u);
}

TEST(Baseline, AFindingMustNotGrow) {
  TemporaryFolder folder;
  const std::string path = folder.Write("known.json", Dump(Json{{"checks", {ToJson(WithFinding(2))}}}));
  const auto known = Baseline::Read(path);
  ASSERT_TRUE(known.ok()) << known.status();
  GateRules rules = Check();
  rules.known = &*known;
  EXPECT_EQ(Judge(WithFinding(2), rules).code, 7);
  EXPECT_EQ(Judge(WithFinding(3), rules).code, 1);
  v1::LoadReport other = WithFinding(2);
  other.mutable_findings(0)->set_names(0, "layers.2.q");
  EXPECT_EQ(Judge(other, rules).code, 1);
}

TEST(Baseline, WhatIsNoReportIsAUsageError) {
  TemporaryFolder folder;
  for (const char* text : {"", "[]", "{}", "{\"missingKeys\"", "null"}) {
    EXPECT_EQ(ExitCodeFor(Baseline::Read(folder.Write("b.json", text)).status()), kExitUsage) << text;
  }
  EXPECT_TRUE(
      Baseline::Read(folder.Write("b.json", R"({"missingKeys": [1, {}], "mismatchedKeys": [3], "findings": [4]})"))
          .ok());
}

TEST(AbsentFiles, AreThoseThatTheIndexNames) {
  TemporaryFolder folder;
  folder.Write("model-1.safetensors", "x");
  folder.Write(
      "model.safetensors.index.json",
      R"({"metadata": {"weight_map": {"x": "none"}}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors",
                   "c": "model-2.safetensors", "d": "../up.safetensors", "e": "/etc/x", "f": {"g": "deep"}}})");
  EXPECT_THAT(AbsentFiles(folder.Path("."), ""), ElementsAre("model-2.safetensors"));
}

TEST(AbsentFiles, OfABrokenIndexNothingIsSaid) {
  TemporaryFolder folder;
  EXPECT_THAT(AbsentFiles(folder.Path("."), ""), IsEmpty());
  folder.Write("model.safetensors.index.json", R"({"weight_map": {"a": "model-1)");
  EXPECT_THAT(AbsentFiles(folder.Path("."), ""), IsEmpty());
  EXPECT_THAT(AbsentFiles(folder.Path("nowhere"), ""), IsEmpty());
}

CheckedSource Checked(v1::LoadReport report) {
  CheckedSource source;
  source.path = "models/<a>";
  source.verdict = Judge(report, Check());
  source.report = std::move(report);
  return source;
}

TEST(CheckOutput, JunitCountsAndEscapes) {
  v1::LoadReport report = WithMissing({"layer<1>&\x01"});
  const std::string text = JunitText({Checked(std::move(report)), Checked(Planned())});
  EXPECT_THAT(text,
              HasSubstr("<testsuite name=\"keyload check models/&lt;a&gt;\" tests=\"5\" failures=\"1\" errors=\"0\">"));
  EXPECT_THAT(text, HasSubstr("<failure message=\"1 keys are missing\">layer&lt;1&gt;&amp;\\x01</failure>"));
  EXPECT_THAT(text, HasSubstr("failures=\"0\""));
}

TEST(CheckOutput, JunitSaysWhatCouldNotBeRead) {
  CheckedSource source;
  source.path = "m";
  source.report = absl::NotFoundError("it is not there");
  source.absent_files = {"model-2.safetensors"};
  EXPECT_THAT(JunitText({source}),
              HasSubstr("<error message=\"NOT_FOUND: it is not there\">model-2.safetensors</error>"));
}

TEST(CheckOutput, AnnotationsKeepToOneLine) {
  CheckedSource source;
  source.path = "m:1,2";
  source.report = absl::NotFoundError("50%\nmore");
  EXPECT_EQ(AnnotationsText({source}), "::error title=keyload check m%3A1%2C2::NOT_FOUND: 50%25%0Amore\n");
  EXPECT_THAT(AnnotationsText({Checked(Planned())}), IsEmpty());
}

TEST(CheckOutput, JsonOfOneIsItsReportAndOfSeveralAList) {
  EXPECT_EQ(CheckJson({Checked(Planned())}, kExitDone)["comparedWith"], "config.json (X)");
  const Json several = CheckJson({Checked(Planned()), Checked(WithMissing({"a"}))}, kExitNotComplete);
  EXPECT_EQ(several["exitCode"], 1);
  EXPECT_EQ(several["checks"][1]["exitCode"], 1);
  EXPECT_EQ(several["checks"][1]["missingKeys"], Json::array({"a"}));
  EXPECT_EQ(several["checks"][0]["absentFiles"], Json::array());
}

}  // namespace
}  // namespace keyload::cli
