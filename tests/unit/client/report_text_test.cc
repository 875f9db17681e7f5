#include "client/cli/report_text.h"

#include "client/cli/progress_bar.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace keyload::cli {
namespace {

using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;

v1::LoadReport Report(v1::LoadReport::Outcome outcome) {
  v1::LoadReport report;
  report.set_model("m");
  report.set_outcome(outcome);
  return report;
}

TEST(ReportText, ShowsTenMissingKeysAndHowToSeeTheRest) {
  v1::LoadReport report = Report(v1::LoadReport::OUTCOME_INCOMPLETE);
  report.mutable_keys()->set_missing(25);
  for (int i = 0; i < 25; ++i) report.add_missing_keys("key." + std::to_string(i));
  std::string text = ReportText(report, {});
  EXPECT_THAT(text, HasSubstr("missing keys (25)\n  key.0\n"));
  EXPECT_THAT(text, HasSubstr("  key.9\n  and 15 more: keyload keys m --state missing\n"));
  EXPECT_THAT(text, Not(HasSubstr("key.10")));
}

TEST(ReportText, NamesNoServerCommandForAPlan) {
  v1::LoadReport report = Report(v1::LoadReport::OUTCOME_PLANNED);
  report.mutable_keys()->set_missing(11);
  EXPECT_THAT(ReportText(report, {}), Not(HasSubstr("keyload keys")));
}

TEST(ReportText, ShowsTwentyMapEntries) {
  v1::LoadReport report = Report(v1::LoadReport::OUTCOME_COMPLETE);
  for (int i = 0; i < 21; ++i) report.add_device_map()->set_module("layer." + std::to_string(i));
  std::string text = ReportText(report, {});
  EXPECT_THAT(text, HasSubstr("layer.19"));
  EXPECT_THAT(text, Not(HasSubstr("layer.20")));
  EXPECT_THAT(text, HasSubstr("and 1 more"));
}

TEST(ReportText, ColoursOnlyForATerminal) {
  v1::LoadReport report = Report(v1::LoadReport::OUTCOME_COMPLETE);
  EXPECT_THAT(ReportText(report, {}), HasSubstr("m: COMPLETE\n"));
  EXPECT_THAT(ReportText(report, {.colour = true}), HasSubstr("\x1b[1;32mCOMPLETE\x1b[0m"));
}

TEST(ReportText, ShowsTheErrorAndTheWarnings) {
  v1::LoadReport report = Report(v1::LoadReport::OUTCOME_FAILED);
  report.mutable_error()->set_reason("IO_ERROR");
  report.mutable_error()->set_message("a.safetensors: read");
  report.add_warnings("slow disk");
  EXPECT_THAT(ReportText(report, {}), HasSubstr("IO_ERROR: a.safetensors: read\n"));
  EXPECT_THAT(ReportText(report, {}), HasSubstr("warning: slow disk\n"));
}

TEST(ReportText, CountsLazyKeysOfALazyLoad) {
  v1::LoadReport report = Report(v1::LoadReport::OUTCOME_COMPLETE);
  report.mutable_keys()->set_expected(104);
  report.mutable_keys()->set_lazy(104);
  report.add_shards()->set_file("model.safetensors");
  report.mutable_shards(0)->set_engine("buffered");
  const std::string text = ReportText(report, {});
  EXPECT_THAT(text, HasSubstr("0 loaded, 104 lazy, 0 missing"));
  EXPECT_THAT(text, Not(HasSubstr("model.safetensors")));  // nothing was read from it
}

TEST(ReportText, ShowsOverReadOfWhatWasNotMapped) {
  v1::LoadReport report = Report(v1::LoadReport::OUTCOME_COMPLETE);
  report.mutable_bytes()->set_selected(5 << 20);
  report.mutable_bytes()->set_mapped(1 << 20);
  report.mutable_bytes()->set_read(4 << 20);
  EXPECT_THAT(ReportText(report, {}), HasSubstr("5.0 MiB selected, 4.0 MiB read, 1.0 MiB mapped\n"));
  report.mutable_bytes()->set_read((4 << 20) + (1 << 18));
  report.mutable_bytes()->set_cached(1 << 20);
  EXPECT_THAT(ReportText(report, {}), HasSubstr("mapped (1.0 MiB of the read from the page cache, over-read 6.2 %)\n"));
}

TEST(ReportText, ShowsTheEngineOfTenShards) {
  v1::LoadReport report = Report(v1::LoadReport::OUTCOME_COMPLETE);
  report.mutable_bytes()->set_read(12 << 20);
  for (int i = 0; i < 12; ++i) {
    v1::ShardUse& shard = *report.add_shards();
    shard.set_file("shard-" + std::to_string(i));
    shard.set_engine("direct");
    shard.set_read_bytes(1 << 20);
  }
  const std::string text = ReportText(report, {});
  EXPECT_THAT(text, ContainsRegex("shard-9 +0 +0 B +1.0 MiB  direct"));
  EXPECT_THAT(text, Not(HasSubstr("shard-10")));
  EXPECT_THAT(text, HasSubstr("and 2 more"));
}

TEST(ProgressLine, ShowsPhaseBytesRateAndTensors) {
  v1::LoadProgress progress;
  progress.set_phase("transfer");
  progress.set_bytes_done(1 << 20);
  progress.set_bytes_total(2 << 20);
  progress.set_tensors_done(3);
  progress.set_tensors_total(7);
  std::string line = ProgressLine(progress, 512.0 * 1024);
  EXPECT_THAT(line, HasSubstr("transfer"));
  EXPECT_THAT(line, HasSubstr("[###############...............]"));
  EXPECT_THAT(line, HasSubstr("/s, 3 of 7 tensors"));
}

TEST(ProgressLine, ShowsThePlaceInTheQueue) {
  v1::LoadProgress progress;
  progress.set_queue_position(3);
  EXPECT_EQ(ProgressLine(progress, 0), "queued, position 3");
  progress.set_phase("memory");
  EXPECT_EQ(ProgressLine(progress, 0), "waits for memory, position 3");
}

}  // namespace
}  // namespace keyload::cli
