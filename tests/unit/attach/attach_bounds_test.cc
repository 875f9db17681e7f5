#include "server/attach/attach_bounds.h"

#include <gtest/gtest.h>

#include "server/base/error.h"

namespace keyload {
namespace {

using Use = AttachBounds::Use;

TEST(AttachBounds, FollowFromTheDescriptorsOfTheProcess) {
  const AttachBounds bounds(1024);
  EXPECT_EQ(bounds.most_in_flight(), 256u);
  EXPECT_EQ(bounds.most_batch(), 16u);
  EXPECT_EQ(bounds.most_connections(), 256u);
  EXPECT_EQ(bounds.room(), 256u);
  const AttachBounds few(1);
  EXPECT_EQ(few.most_batch(), 1u);
  EXPECT_EQ(few.most_connections_of_user(), 1u);
}

TEST(AttachBounds, CountWhatIsChanged) {
  AttachBounds bounds(64);
  bounds.Change(1, {}, {.connections = 1, .pending = 1});
  bounds.Change(1, {.connections = 1, .pending = 1}, {.connections = 1, .in_flight = 12});
  EXPECT_EQ(bounds.room(), 4u);
  bounds.Change(2, {}, {.connections = 1, .in_flight = 10});
  EXPECT_EQ(bounds.room(), 0u);
  bounds.Change(1, {.connections = 1, .in_flight = 12}, {});
  EXPECT_EQ(bounds.room(), 6u);
  EXPECT_EQ(bounds.total(), (Use{.connections = 1, .in_flight = 10}));
}

TEST(AttachBounds, LeaveRoomForOtherUsers) {
  AttachBounds bounds(64);  // 16 connections, 8 of a user; 4 pending, 2 of a user; 8 unread of a user
  const Use full[] = {{.connections = 8}, {.connections = 2, .pending = 2}, {.connections = 1, .unread = 8}};
  for (const Use& use : full) {
    bounds.Change(1, {}, use);
    EXPECT_EQ(ErrorReason(bounds.CheckNew(1)), Reason::kLoadQueueFull);
    EXPECT_TRUE(bounds.CheckNew(2).ok());
    bounds.Change(1, use, {});
    EXPECT_TRUE(bounds.CheckNew(1).ok());
  }
}

TEST(AttachBounds, HoldForAllUsersTogether) {
  AttachBounds bounds(64);
  const Use full[] = {{.connections = 16}, {.connections = 4, .pending = 4}, {.connections = 1, .unread = 32}};
  for (const Use& use : full) {
    bounds.Change(1, {}, use);
    EXPECT_EQ(ErrorReason(bounds.CheckNew(2)), Reason::kLoadQueueFull);
    bounds.Change(1, use, {});
  }
}

}  // namespace
}  // namespace keyload
