#include "server/report/load_report.h"

#include <utility>

#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/strings.h"

namespace keyload {

std::string_view OutcomeName(Outcome outcome) {
  constexpr std::string_view kNames[] = {"PLANNED", "COMPLETE", "INCOMPLETE", "REJECTED", "CANCELLED", "FAILED"};
  return kNames[static_cast<int>(outcome)];
}

void LogLoad(const LoadReport& report, const Caller* caller) {
  std::vector<LogField> fields = {
      {"load", report.load},
      {"model", report.model},
      {"outcome", std::string(OutcomeName(report.outcome))},
      {"expected", report.keys.expected},
      {"loaded", report.keys.loaded},
      {"lazy", report.keys.lazy},
      {"missing", report.keys.missing},
      {"unexpected", report.keys.unexpected},
      {"mismatched", report.keys.mismatched},
      {"selected_bytes", report.bytes.selected},
      {"read_bytes", report.bytes.read},
      {"mapped_bytes", report.bytes.mapped},
      {"cached_bytes", report.bytes.cached},
      {"total_seconds", absl::ToDoubleSeconds(report.total)},
  };
  std::vector<std::string> names;  // fields hold views
  names.reserve(report.phases.size());
  for (const Phase& phase : report.phases) {
    names.push_back(StrCat(phase.name, "_seconds"));
    fields.push_back({names.back(), absl::ToDoubleSeconds(phase.duration)});
  }
  LogLevel level = LogLevel::kInfo;
  if (!report.error.ok()) {
    level = LogLevel::kWarning;
    fields.push_back({"reason", std::string(ReasonName(ErrorReason(report.error)))});
    fields.push_back({"message", std::string(report.error.message())});
  }
  Log(level, "load", std::move(fields), caller);
}

}  // namespace keyload
