#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/base/log.h"
#include "server/base/request_context.h"
#include "server/report/load_report.h"

namespace keyload {

// The audit line of one request for a load. Not thread-safe: it is told what the load's observer hears.
class LoadAudit {
 public:
  // `caller` is not null.
  LoadAudit(std::string model, std::shared_ptr<const Caller> caller)
      : caller_(std::move(caller)), entry_{.action = "load", .model = std::move(model)} {}

  // There will be no line.
  void Suppress() { suppressed_ = true; }
  void Accepted(const std::string& load) { entry_.load = load; }
  // Writes the line, when the caller's part in the load ends. Once.
  void End(const absl::StatusOr<LoadReport>& result);

 private:
  const std::shared_ptr<const Caller> caller_;
  AuditEntry entry_;
  bool suppressed_ = false;
};

}  // namespace keyload
