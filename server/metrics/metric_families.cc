#include "server/metrics/metric_families.h"

#include "server/base/strings.h"

namespace keyload {
namespace {

constexpr std::string_view kPhases[] = {"queue", "open",    "index",    "expected",   "reconcile", "place",
                                        "plan",  "reserve", "transfer", "initialize", "publish"};
constexpr std::string_view kTotal = "total";

constexpr std::array<std::string_view, kStatusCodes> kStatusCodeNames = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};

const prometheus::Histogram::BucketBoundaries& LoadBuckets() {
  static const prometheus::Histogram::BucketBoundaries buckets = {
      0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600};
  return buckets;
}

// Fewer: there is a histogram for each method.
const prometheus::Histogram::BucketBoundaries& CallBuckets() {
  static const prometheus::Histogram::BucketBoundaries buckets = {0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1,
                                                                  2.5,   5,     10,   30,   60,  300, 600};
  return buckets;
}

}  // namespace

size_t StatusCodeIndex(absl::StatusCode code) {
  const auto index = static_cast<size_t>(code);
  return index < kStatusCodes ? index : static_cast<size_t>(absl::StatusCode::kUnknown);
}

LabelledCounters::LabelledCounters(prometheus::Registry& registry, const std::string& name, const std::string& help,
                                   const std::string& label, const std::vector<std::string>& values) {
  auto& family = prometheus::BuildCounter().Name(name).Help(help).Register(registry);
  for (const std::string& value : values) counters_.push_back(&family.Add({{label, value}}));
}

LabelledGauges::LabelledGauges(prometheus::Registry& registry, const std::string& name, const std::string& help)
    : family_(prometheus::BuildGauge().Name(name).Help(help).Register(registry)) {}

prometheus::Counter& MakeCounter(prometheus::Registry& registry, const std::string& name, const std::string& help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add({});
}

prometheus::Gauge& MakeGauge(prometheus::Registry& registry, const std::string& name, const std::string& help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add({});
}

PhaseHistograms::PhaseHistograms(prometheus::Registry& registry)
    : family_(prometheus::BuildHistogram()
                  .Name("keyload_load_duration_seconds")
                  .Help("Time of loads that got a plan, by phase; a phase that a load did not enter is not observed.")
                  .Register(registry)) {
  for (const std::string_view phase : kPhases) {
    phases_.emplace(phase, &family_.Add({{"phase", std::string(phase)}}, LoadBuckets()));
  }
  total_ = &family_.Add({{"phase", std::string(kTotal)}}, LoadBuckets());
}

prometheus::Histogram& PhaseHistograms::Find(std::string_view phase) {
  const auto it = phases_.find(phase);
  return it != phases_.end() ? *it->second : family_.Add({{"phase", std::string(kOtherLabel)}}, LoadBuckets());
}

CallFamilies::CallFamilies(prometheus::Registry& registry, const std::vector<std::string>& methods) {
  auto& started = prometheus::BuildCounter()
                      .Name("keyload_grpc_server_calls_started_total")
                      .Help("Calls that began, by method.")
                      .Register(registry);
  auto& ended = prometheus::BuildCounter()
                    .Name("keyload_grpc_server_calls_total")
                    .Help("Calls that ended, by method and status code.")
                    .Register(registry);
  auto& duration = prometheus::BuildHistogram()
                       .Name("keyload_grpc_server_call_duration_seconds")
                       .Help("Time from the beginning of a call to its status, by method.")
                       .Register(registry);
  const auto add = [&](const std::string& name) {
    Method method = {.started = &started.Add({{"method", name}}),
                     .duration = &duration.Add({{"method", name}}, CallBuckets())};
    for (size_t i = 0; i < kStatusCodes; ++i) {
      method.ended[i] = &ended.Add({{"method", name}, {"code", std::string(kStatusCodeNames[i])}});
    }
    methods_.emplace(name, method);
  };
  for (const std::string& name : methods) add(name);
  add(std::string(kOtherLabel));
}

const CallFamilies::Method& CallFamilies::Find(std::string_view method) const {
  const auto it = methods_.find(ToAbsl(method));
  return it != methods_.end() ? it->second : methods_.find(ToAbsl(kOtherLabel))->second;
}

}  // namespace keyload
