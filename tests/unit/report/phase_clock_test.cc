#include "server/report/phase_clock.h"

#include <gtest/gtest.h>

namespace keyload {
namespace {

TEST(PhaseClock, PhasesAreDisjointInOrderAndSumToTheTotal) {
  PhaseClock clock;
  clock.Enter("open");
  clock.Enter("index");
  LoadReport report;
  clock.Write(report);
  ASSERT_EQ(report.phases.size(), 3);
  EXPECT_EQ(report.phases[0].name, "queue");
  EXPECT_EQ(report.phases[1].name, "open");
  EXPECT_EQ(report.phases[2].name, "index");
  absl::Duration sum;
  for (const Phase& phase : report.phases) {
    EXPECT_EQ(phase.start, sum);
    sum += phase.duration;
  }
  EXPECT_EQ(sum, report.total);
}

TEST(PhaseClock, AReportCanBeWrittenWhileThePhaseGoesOn) {
  PhaseClock clock;
  LoadReport early, late;
  clock.Write(early);
  clock.Enter("open");
  clock.Write(late);
  EXPECT_EQ(early.phases.size(), 1);
  EXPECT_GE(late.phases[0].duration, early.phases[0].duration);
}

}  // namespace
}  // namespace keyload
