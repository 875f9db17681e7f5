#include "server/base/request_context.h"

#include <gtest/gtest.h>

#include "server/base/error.h"

namespace keyload {
namespace {

TEST(RequestContext, IsFineWithoutStopAndDeadline) { EXPECT_TRUE(RequestContext().Check().ok()); }

TEST(RequestContext, ReportsCancellation) {
  std::stop_source stop;
  const RequestContext context = {.stop = stop.get_token()};
  EXPECT_TRUE(context.Check().ok());
  stop.request_stop();
  EXPECT_EQ(ErrorReason(context.Check()), Reason::kLoadCancelled);
}

TEST(RequestContext, ReportsThePassedDeadline) {
  EXPECT_EQ(ErrorReason(RequestContext{.deadline = Deadline::After(-absl::Seconds(1))}.Check()),
            Reason::kDeadlineExceeded);
  EXPECT_TRUE(RequestContext{.deadline = Deadline::After(absl::Hours(1))}.Check().ok());
}

TEST(RequestContext, ACallerThatGivesUpAtItsDeadlineIsTooLate) {
  std::stop_source stop;
  stop.request_stop();
  const RequestContext context = {.stop = stop.get_token(), .deadline = Deadline::After(-absl::Seconds(1))};
  EXPECT_EQ(ErrorReason(context.Check()), Reason::kDeadlineExceeded);
}

}  // namespace
}  // namespace keyload
