#pragma once

#include <string>

#include "absl/status/status.h"
#include "keyload/v1/model_loader.pb.h"
#include "nlohmann/json.hpp"

namespace keyload::mock {

// What holds for the events of every load, whatever was asked: accepted, then the plan, then progress that never goes
// back, then exactly one end. One object per load.
class LoadRules {
 public:
  // Takes the next event. FAILED_PRECONDITION names the rule that it breaks.
  absl::Status Take(const v1::LoadResponse& response);
  bool ended() const { return ended_; }
  // {"planned": ..., "report": ...} or {"error": ...}: as far as they came.
  const nlohmann::json& received() const { return received_; }

 private:
  absl::Status TakeProgress(const v1::LoadProgress& progress);

  bool accepted_ = false;
  bool ended_ = false;
  std::string phase_;
  uint64_t bytes_done_ = 0;
  nlohmann::json received_ = nlohmann::json::object();
};

// Phases are disjoint, in order and sum to the total; the lists of names are no longer than their counts.
absl::Status CheckReport(const v1::LoadReport& report);

}  // namespace keyload::mock
