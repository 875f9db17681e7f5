#include "client/cli/trace_file.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace keyload::cli {
namespace {

using testing::ElementsAre;

v1::Phase PhaseOf(const std::string& name, int start_ns, int duration_ns) {
  v1::Phase phase;
  phase.set_name(name);
  phase.mutable_start()->set_nanos(start_ns);
  phase.mutable_duration()->set_nanos(duration_ns);
  return phase;
}

v1::LoadReport MeasuredReport() {
  v1::LoadReport report;
  report.set_load("load-000007");
  report.set_model("m");
  report.set_outcome(v1::LoadReport::OUTCOME_COMPLETE);
  report.mutable_total_duration()->set_seconds(2);
  *report.add_phases() = PhaseOf("queue", 0, 1500);
  *report.add_phases() = PhaseOf("transfer", 1500, 999'000'000);
  *report.add_busy() = PhaseOf("read", 0, 7000);
  v1::ShardUse* const shard = report.add_shards();
  shard->set_file("a.safetensors");
  shard->set_engine("direct");
  shard->set_read_bytes(12);
  report.add_shards()->set_file("untouched.safetensors");
  return report;
}

// "ph name tid ts dur" of every event; of a track's name "M name tid".
std::vector<std::string> EventsOf(const v1::LoadReport& report) {
  std::vector<std::string> events;
  const Json trace = TraceOf(report);
  for (const Json& event : trace["traceEvents"]) {
    std::string text = event["ph"].get<std::string>() + " ";
    text += event["ph"] == "M" ? event["args"]["name"].get<std::string>() : event["name"].get<std::string>();
    text += " " + event["tid"].dump();
    if (event["ph"] == "X") text += " " + event["ts"].dump() + " " + event["dur"].dump();
    events.push_back(text);
  }
  return events;
}

TEST(TraceOf, HasTheLoadItsPhasesAndATrackForEachSum) {
  EXPECT_THAT(EventsOf(MeasuredReport()),
              ElementsAre("M keyload load-000007 m 1", "M load 1", "X load 1 0.0 2000000.0", "X queue 1 0.0 1.5",
                          "X transfer 1 1.5 999000.0", "M busy: read 2", "X busy: read 2 1.5 7.0",
                          "M shard: a.safetensors 3", "X shard: a.safetensors 3 1.5 0.0"));
}

TEST(TraceOf, SaysWhyALoadFailed) {
  v1::LoadReport report = MeasuredReport();
  EXPECT_FALSE(TraceOf(report)["traceEvents"][2]["args"].contains("error"));
  report.set_outcome(v1::LoadReport::OUTCOME_FAILED);
  report.mutable_error()->set_reason("IO_ERROR");
  const Json trace = TraceOf(report);
  EXPECT_EQ(trace["traceEvents"][2]["args"]["error"]["reason"], "IO_ERROR");
  EXPECT_EQ(trace["otherData"]["outcome"], "FAILED");
}

TEST(TraceOf, AReportWithoutPhasesHasItsSumsAtTheStart) {
  v1::LoadReport report;
  *report.add_busy() = PhaseOf("read", 0, 1000);
  EXPECT_THAT(EventsOf(report),
              ElementsAre("M keyload   1", "M load 1", "X load 1 0.0 0.0", "M busy: read 2", "X busy: read 2 0.0 1.0"));
}

}  // namespace
}  // namespace keyload::cli
