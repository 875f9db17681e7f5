#include "server/report/phase_clock.h"

#include <chrono>

namespace keyload {
namespace {

int64_t NowNanoseconds() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

PhaseClock::PhaseClock() : start_ns_(NowNanoseconds()) {
  phases_.push_back({.name = "queue", .start = absl::ZeroDuration(), .duration = absl::ZeroDuration()});
}

absl::Duration PhaseClock::Elapsed() const { return absl::Nanoseconds(NowNanoseconds() - start_ns_); }

void PhaseClock::Enter(std::string_view phase) {
  const absl::Duration now = Elapsed();
  phases_.back().duration = now - phases_.back().start;
  phases_.push_back({.name = std::string(phase), .start = now, .duration = absl::ZeroDuration()});
}

void PhaseClock::Write(LoadReport& report) const {
  const absl::Duration now = Elapsed();
  report.phases = phases_;
  report.phases.back().duration = now - phases_.back().start;
  report.total = now;
}

}  // namespace keyload
