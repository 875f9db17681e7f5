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

TEST(Caller, SharesByNameAndMachineWhateverItsConnections) {
  const auto share = [](std::string name, std::string peer) {
    return Caller{.name = std::move(name), .peer = std::move(peer), .traceparent = ""}.share();
  };
  EXPECT_EQ(share("token:ci", "ipv4:10.0.0.1:40312"), share("token:ci", "ipv4:10.0.0.1:40313"));
  EXPECT_EQ(share("", "ipv6:%5B::1%5D:1"), share("", "ipv6:%5B::1%5D:2"));
  EXPECT_NE(share("token:ci", "ipv4:10.0.0.1:40312"), share("token:ci", "ipv4:10.0.0.2:40312"));
  EXPECT_NE(share("token:ci", "ipv4:10.0.0.1:40312"), share("token:ops", "ipv4:10.0.0.1:40312"));
  EXPECT_EQ(share("socket", "unix:"), share("socket", "unix:/tmp/a-path-of-the-clients-choice"));
}

TEST(PeriodicCheck, AsksAfterSoMuchCost) {
  std::stop_source stop;
  stop.request_stop();
  const RequestContext context = {.stop = stop.get_token()};
  PeriodicCheck often(&context);
  EXPECT_TRUE(often.Check(63).ok());
  EXPECT_FALSE(often.Check(1).ok());
  PeriodicCheck at_once(&context);
  EXPECT_FALSE(at_once.Check(1'000'000).ok());
  PeriodicCheck never(nullptr);
  EXPECT_TRUE(never.Check(1'000'000).ok());
}

}  // namespace
}  // namespace keyload
