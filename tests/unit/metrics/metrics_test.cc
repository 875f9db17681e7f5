#include "server/metrics/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "server/base/error.h"

namespace keyload {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

Metrics::Options TwoMethods() { return {.methods = {"Load", "GetModel"}, .build = {{"version", "1.2.3"}}}; }

// The value that the page shows for `series`, as written there.
std::string ValueOf(const Metrics& metrics, const std::string& series) {
  const std::string text = "\n" + metrics.Text();
  const std::string start = "\n" + series + " ";
  const size_t at = text.find(start);
  if (at == std::string::npos) return "absent";
  const size_t value = at + start.size();
  return text.substr(value, text.find('\n', value) - value);
}

LoadReport ReportOf(Outcome outcome) {
  LoadReport report;
  report.outcome = outcome;
  return report;
}

TEST(Metrics, EverySeriesThatIsKnownStartsWithZero) {
  const Metrics metrics(TwoMethods());
  for (const char* series :
       {"keyload_load_requests_started_total", "keyload_load_requests_total{outcome=\"failed\"}",
        "keyload_load_duration_seconds_count{phase=\"initialize\"}",
        "keyload_load_duration_seconds_count{phase=\"total\"}", "keyload_loaded_bytes_total{path=\"mapped\"}",
        "keyload_keys_missing_total", "keyload_materializations_total{outcome=\"error\"}",
        "keyload_device_map_changes_total{change=\"delete\"}",
        "keyload_grpc_server_calls_started_total{method=\"Load\"}",
        "keyload_grpc_server_calls_total{code=\"UNAUTHENTICATED\",method=\"GetModel\"}",
        "keyload_grpc_server_calls_total{code=\"OK\",method=\"other\"}", "keyload_open_calls",
        "keyload_authentication_failures_total{reason=\"token_invalid\"}", "keyload_connections_refused_total",
        "keyload_tls_certificate_expiry_timestamp_seconds", "keyload_tls_certificate_current",
        "keyload_tls_reload_failures_total"}) {
    EXPECT_EQ(ValueOf(metrics, series), "0") << series;
  }
  EXPECT_EQ(ValueOf(metrics, "keyload_build_info{version=\"1.2.3\"}"), "1");
}

TEST(Metrics, ALoadCountsByItsOutcome) {
  Metrics metrics(TwoMethods());
  for (const Outcome outcome :
       {Outcome::kComplete, Outcome::kIncomplete, Outcome::kRejected, Outcome::kCancelled, Outcome::kFailed}) {
    metrics.LoadStarted();
    metrics.LoadEnded(ReportOf(outcome));
  }
  for (const char* outcome : {"complete", "incomplete", "rejected", "cancelled", "failed"}) {
    EXPECT_EQ(ValueOf(metrics, std::string("keyload_load_requests_total{outcome=\"") + outcome + "\"}"), "1")
        << outcome;
  }
  EXPECT_EQ(ValueOf(metrics, "keyload_load_requests_total{outcome=\"error\"}"), "0");
  EXPECT_EQ(ValueOf(metrics, "keyload_load_requests_started_total"), "5");
}

TEST(Metrics, ALoadWithoutAReportIsCancelledOrAnError) {
  Metrics metrics(TwoMethods());
  metrics.LoadEnded(MakeError(Reason::kLoadCancelled, "x"));
  metrics.LoadEnded(MakeError(Reason::kDeadlineExceeded, "x"));
  metrics.LoadEnded(MakeError(Reason::kCheckpointCorrupt, "x"));
  EXPECT_EQ(ValueOf(metrics, "keyload_load_requests_total{outcome=\"cancelled\"}"), "2");
  EXPECT_EQ(ValueOf(metrics, "keyload_load_requests_total{outcome=\"error\"}"), "1");
  EXPECT_EQ(ValueOf(metrics, "keyload_load_duration_seconds_count{phase=\"total\"}"), "0");
}

TEST(Metrics, ARefusedRequestStartsAndEnds) {
  Metrics metrics(TwoMethods());
  metrics.LoadRefused();
  EXPECT_EQ(ValueOf(metrics, "keyload_load_requests_started_total"), "1");
  EXPECT_EQ(ValueOf(metrics, "keyload_load_requests_total{outcome=\"error\"}"), "1");
}

TEST(Metrics, AReportCountsKeysBytesAndPhases) {
  Metrics metrics(TwoMethods());
  LoadReport report = ReportOf(Outcome::kIncomplete);
  report.keys.expected = 10;
  report.keys.missing = 3;
  report.keys.unexpected = 2;
  report.keys.mismatched = 1;
  report.bytes = {.selected = 0, .read = 1000, .mapped = 50, .cached = 400};
  report.phases = {
      {"queue", {}, absl::Milliseconds(1)}, {"reserve", {}, absl::Seconds(2)}, {"reserve", {}, absl::Seconds(3)}};
  report.total = absl::Seconds(700);
  metrics.LoadEnded(report);
  EXPECT_EQ(ValueOf(metrics, "keyload_keys_expected_total"), "10");
  EXPECT_EQ(ValueOf(metrics, "keyload_keys_missing_total"), "3");
  EXPECT_EQ(ValueOf(metrics, "keyload_keys_unexpected_total"), "2");
  EXPECT_EQ(ValueOf(metrics, "keyload_keys_mismatched_total"), "1");
  EXPECT_EQ(ValueOf(metrics, "keyload_loaded_bytes_total{path=\"read\"}"), "600");
  EXPECT_EQ(ValueOf(metrics, "keyload_loaded_bytes_total{path=\"cached\"}"), "400");
  EXPECT_EQ(ValueOf(metrics, "keyload_loaded_bytes_total{path=\"mapped\"}"), "50");
  EXPECT_EQ(ValueOf(metrics, "keyload_load_duration_seconds_count{phase=\"reserve\"}"), "1");
  EXPECT_EQ(ValueOf(metrics, "keyload_load_duration_seconds_sum{phase=\"reserve\"}"), "5");
  EXPECT_EQ(ValueOf(metrics, "keyload_load_duration_seconds_bucket{phase=\"total\",le=\"600\"}"), "0");
  EXPECT_EQ(ValueOf(metrics, "keyload_load_duration_seconds_bucket{phase=\"total\",le=\"+Inf\"}"), "1");
}

TEST(Metrics, APhaseThatIsNotKnownIsOther) {
  Metrics metrics(TwoMethods());
  LoadReport report = ReportOf(Outcome::kComplete);
  report.phases = {{"dance", {}, absl::Seconds(1)}};
  metrics.LoadEnded(report);
  EXPECT_EQ(ValueOf(metrics, "keyload_load_duration_seconds_sum{phase=\"other\"}"), "1");
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("dance")));
}

TEST(Metrics, AReportWithMoreCachedThanReadTakesNothingAway) {
  Metrics metrics(TwoMethods());
  metrics.BytesLoaded({.selected = 0, .read = 10, .mapped = 0, .cached = 30});
  EXPECT_EQ(ValueOf(metrics, "keyload_loaded_bytes_total{path=\"read\"}"), "0");
  EXPECT_EQ(ValueOf(metrics, "keyload_loaded_bytes_total{path=\"cached\"}"), "10");
}

TEST(Metrics, WhatIsDoneToModelsCounts) {
  Metrics metrics(TwoMethods());
  metrics.LoadJoined();
  metrics.MaterializationStarted();
  metrics.MaterializationEnded(ReportOf(Outcome::kRejected));
  metrics.Evicted(7);
  metrics.Unloaded(9);
  metrics.DeviceMapSet();
  metrics.DeviceMapDeleted();
  EXPECT_EQ(ValueOf(metrics, "keyload_load_requests_joined_total"), "1");
  EXPECT_EQ(ValueOf(metrics, "keyload_materializations_started_total"), "1");
  EXPECT_EQ(ValueOf(metrics, "keyload_materializations_total{outcome=\"rejected\"}"), "1");
  EXPECT_EQ(ValueOf(metrics, "keyload_evictions_total"), "1");
  EXPECT_EQ(ValueOf(metrics, "keyload_evicted_bytes_total"), "7");
  EXPECT_EQ(ValueOf(metrics, "keyload_unloads_total"), "1");
  EXPECT_EQ(ValueOf(metrics, "keyload_unloaded_bytes_total"), "9");
  EXPECT_EQ(ValueOf(metrics, "keyload_device_map_changes_total{change=\"set\"}"), "1");
  EXPECT_EQ(ValueOf(metrics, "keyload_device_map_changes_total{change=\"delete\"}"), "1");
}

TEST(Metrics, CallsCountByMethodAndCode) {
  Metrics metrics(TwoMethods());
  metrics.CallStarted("Load");
  metrics.CallStarted("Load");
  metrics.CallEnded("Load", absl::StatusCode::kNotFound, absl::Seconds(2));
  EXPECT_EQ(ValueOf(metrics, "keyload_open_calls"), "1");
  EXPECT_EQ(ValueOf(metrics, "keyload_grpc_server_calls_started_total{method=\"Load\"}"), "2");
  EXPECT_EQ(ValueOf(metrics, "keyload_grpc_server_calls_total{code=\"NOT_FOUND\",method=\"Load\"}"), "1");
  EXPECT_EQ(ValueOf(metrics, "keyload_grpc_server_call_duration_seconds_sum{method=\"Load\"}"), "2");
}

TEST(Metrics, AMethodThatIsNotRegisteredIsOther) {
  Metrics metrics(TwoMethods());
  metrics.CallStarted("/evil/Name");
  metrics.CallEnded("/evil/Name", static_cast<absl::StatusCode>(99), absl::ZeroDuration());
  EXPECT_EQ(ValueOf(metrics, "keyload_grpc_server_calls_started_total{method=\"other\"}"), "1");
  EXPECT_EQ(ValueOf(metrics, "keyload_grpc_server_calls_total{code=\"UNKNOWN\",method=\"other\"}"), "1");
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("evil")));
}

TEST(Metrics, WhoIsRefusedCounts) {
  Metrics metrics(TwoMethods());
  metrics.AuthenticationFailed(Reason::kTokenMissing);
  metrics.AuthenticationFailed(Reason::kTokenInvalid);
  metrics.AuthenticationFailed(Reason::kRoleInsufficient);
  metrics.AuthenticationFailed(Reason::kInternal);
  metrics.ConnectionRefused();
  for (const char* reason : {"token_missing", "token_invalid", "role_insufficient"}) {
    EXPECT_EQ(ValueOf(metrics, std::string("keyload_authentication_failures_total{reason=\"") + reason + "\"}"), "1");
  }
  EXPECT_EQ(ValueOf(metrics, "keyload_connections_refused_total"), "1");
}

TEST(Metrics, TheCertificateIsShown) {
  Metrics metrics(TwoMethods());
  Metrics::TlsCertificate tls = {.expiry = absl::FromUnixSeconds(1900000000), .current = true, .reload_failures = 0};
  metrics.SetSampler([&tls] { return Metrics::Sample{.tls = tls}; });
  EXPECT_EQ(ValueOf(metrics, "keyload_tls_certificate_expiry_timestamp_seconds"), "1900000000");
  EXPECT_EQ(ValueOf(metrics, "keyload_tls_certificate_current"), "1");
  tls.current = false;
  tls.reload_failures = 2;
  EXPECT_EQ(ValueOf(metrics, "keyload_tls_certificate_current"), "0");
  EXPECT_EQ(ValueOf(metrics, "keyload_tls_reload_failures_total"), "2");
}

TEST(Metrics, TheSamplerIsAskedAtEachScrapeUntilItIsReplaced) {
  Metrics metrics(TwoMethods());
  uint64_t loads = 3;
  metrics.SetSampler([&loads] {
    return Metrics::Sample{.inflight_loads = loads++,
                           .waiting_for_thread = 1,
                           .waiting_for_memory = 2,
                           .devices = {{.device = "cuda:0", .capacity = 100, .used = 40, .reserved = 10, .free = 50}},
                           .models = {{"RESIDENT", 4}}};
  });
  EXPECT_EQ(ValueOf(metrics, "keyload_inflight_loads"), "4");  // 3 was for SetSampler
  EXPECT_EQ(ValueOf(metrics, "keyload_inflight_loads"), "5");
  EXPECT_EQ(ValueOf(metrics, "keyload_load_queue_depth{waits_for=\"memory\"}"), "2");
  EXPECT_EQ(ValueOf(metrics, "keyload_device_memory_bytes{device=\"cuda:0\",kind=\"free\"}"), "50");
  EXPECT_EQ(ValueOf(metrics, "keyload_models{state=\"resident\"}"), "4");
  metrics.SetSampler(nullptr);
  const uint64_t last = loads;
  EXPECT_EQ(ValueOf(metrics, "keyload_models{state=\"resident\"}"), "4");
  EXPECT_EQ(loads, last);
}

TEST(Metrics, TheProcessIsShown) {
  const Metrics metrics(TwoMethods());
  EXPECT_GT(std::stod(ValueOf(metrics, "process_resident_memory_bytes")), 1 << 20);
  EXPECT_GE(std::stod(ValueOf(metrics, "process_open_fds")), 3);
  EXPECT_GT(std::stod(ValueOf(metrics, "process_start_time_seconds")), 1.6e9);
  EXPECT_GT(std::stod(ValueOf(metrics, "process_cpu_seconds_total")), 0);
}

TEST(Metrics, NothingIsLostAmongThreads) {
  constexpr int kThreads = 4;
  constexpr int kTurns = 1000;
  Metrics metrics(TwoMethods());
  LoadReport report = ReportOf(Outcome::kComplete);
  report.bytes.read = 8;
  report.phases = {{"open", {}, absl::Seconds(1)}};
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      for (int turn = 0; turn < kTurns; ++turn) {
        metrics.LoadStarted();
        metrics.CallStarted("Load");
        metrics.LoadEnded(report);
        metrics.CallEnded("Load", absl::StatusCode::kOk, absl::ZeroDuration());
        if (turn % 250 == 0) metrics.Text();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(ValueOf(metrics, "keyload_load_requests_total{outcome=\"complete\"}"), "4000");
  EXPECT_EQ(ValueOf(metrics, "keyload_loaded_bytes_total{path=\"read\"}"), "32000");
  EXPECT_EQ(ValueOf(metrics, "keyload_load_duration_seconds_sum{phase=\"open\"}"), "4000");
  EXPECT_EQ(ValueOf(metrics, "keyload_grpc_server_calls_total{code=\"OK\",method=\"Load\"}"), "4000");
  EXPECT_EQ(ValueOf(metrics, "keyload_open_calls"), "0");
}

}  // namespace
}  // namespace keyload
