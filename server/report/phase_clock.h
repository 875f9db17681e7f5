#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "server/report/load_report.h"

namespace keyload {

// Cuts the time of one load into disjoint phases: entering one ends the one before, so that they sum to the total.
// Monotonic. Not thread-safe; confine to one load.
class PhaseClock {
 public:
  PhaseClock();  // starts in phase "queue"
  void Enter(std::string_view phase);
  const std::string& current() const { return phases_.back().name; }
  // Writes phases and total as of now, into a report of a load that goes on or ends.
  void Write(LoadReport& report) const;

 private:
  absl::Duration Elapsed() const;

  int64_t start_ns_;
  std::vector<Phase> phases_;
};

}  // namespace keyload
