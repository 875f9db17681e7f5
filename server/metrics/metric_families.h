#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <array>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"

namespace keyload {

inline constexpr std::string_view kOtherLabel = "other";

inline constexpr size_t kStatusCodes = 17;  // OK to UNAUTHENTICATED, as gRPC numbers them

// Counters of one family that differ in the value of one label; all values are known beforehand.
class LabelledCounters {
 public:
  LabelledCounters(prometheus::Registry& registry, const std::string& name, const std::string& help,
                   const std::string& label, const std::vector<std::string>& values);
  prometheus::Counter& operator[](size_t index) const { return *counters_[index]; }

 private:
  std::vector<prometheus::Counter*> counters_;  // of the registry
};

// Gauges of one family whose labels are found out while the daemon runs. Thread-safe.
class LabelledGauges {
 public:
  LabelledGauges(prometheus::Registry& registry, const std::string& name, const std::string& help);
  void Set(const prometheus::Labels& labels, double value) { family_.Add(labels).Set(value); }

 private:
  prometheus::Family<prometheus::Gauge>& family_;
};

prometheus::Counter& MakeCounter(prometheus::Registry& registry, const std::string& name, const std::string& help);
prometheus::Gauge& MakeGauge(prometheus::Registry& registry, const std::string& name, const std::string& help);

// The phases of a load, by name; what is no known phase is "other".
class PhaseHistograms {
 public:
  explicit PhaseHistograms(prometheus::Registry& registry);
  prometheus::Histogram& Find(std::string_view phase);
  prometheus::Histogram& total() { return *total_; }

 private:
  prometheus::Family<prometheus::Histogram>& family_;
  std::map<std::string, prometheus::Histogram*, std::less<>> phases_;
  prometheus::Histogram* total_;
};

// Calls of gRPC by their short name; what is not registered is "other".
class CallFamilies {
 public:
  struct Method {
    prometheus::Counter* started = nullptr;
    prometheus::Histogram* duration = nullptr;
    std::array<prometheus::Counter*, kStatusCodes> ended = {};
  };
  CallFamilies(prometheus::Registry& registry, const std::vector<std::string>& methods);
  const Method& Find(std::string_view method) const;

 private:
  absl::flat_hash_map<std::string, Method> methods_;
};

// Where the code stands in Method::ended; what is no code of gRPC is UNKNOWN.
size_t StatusCodeIndex(absl::StatusCode code);

}  // namespace keyload
