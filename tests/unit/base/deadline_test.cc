#include "server/base/deadline.h"

#include <gtest/gtest.h>

namespace keyload {
namespace {

TEST(Deadline, DefaultNeverPasses) {
  EXPECT_TRUE(Deadline().never());
  EXPECT_FALSE(Deadline().passed());
  EXPECT_EQ(Deadline().left(), absl::InfiniteDuration());
}

TEST(Deadline, AfterLongWaitsIsNever) {
  EXPECT_TRUE(Deadline::After(absl::InfiniteDuration()).never());
  EXPECT_TRUE(Deadline::After(absl::Hours(24 * 365 * 300)).never());
  EXPECT_FALSE(Deadline::After(absl::Hours(24 * 365 * 100)).never());
}

TEST(Deadline, AfterNegativeWaitHasPassed) {
  for (const absl::Duration wait : {-absl::Seconds(1), -absl::InfiniteDuration(), absl::ZeroDuration()}) {
    EXPECT_TRUE(Deadline::After(wait).passed()) << wait;
    EXPECT_EQ(Deadline::After(wait).left(), absl::ZeroDuration());
  }
}

TEST(Deadline, LeftIsWhatRemains) {
  const Deadline deadline = Deadline::After(absl::Minutes(1));
  EXPECT_FALSE(deadline.passed());
  EXPECT_GT(deadline.left(), absl::Seconds(50));
  EXPECT_LE(deadline.left(), absl::Minutes(1));
  EXPECT_LT(deadline, Deadline::Never());
}

}  // namespace
}  // namespace keyload
