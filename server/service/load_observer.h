#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "server/load/transfer.h"
#include "server/report/load_report.h"

namespace keyload {

// Hears about one load. Calls come one after the other, from threads of the service; they must be short and, but for
// OnEnd, must not call the service. OnEnd is the last.
class LoadObserver {
 public:
  virtual ~LoadObserver() = default;
  // `joined`: somebody else's request had started it, or it is done already.
  virtual void OnAccepted(const std::string& load, bool joined) = 0;
  virtual void OnPlanned(const LoadReport& report) = 0;
  virtual void OnProgress(const LoadProgress& progress) = 0;
  // A report, also for CANCELLED and FAILED; a status when the load never got a plan, or goes on without this observer.
  virtual void OnEnd(absl::StatusOr<LoadReport> result) = 0;
};

}  // namespace keyload
