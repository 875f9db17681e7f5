#include "server/base/share_slots.h"

#include <gtest/gtest.h>

#include <vector>

namespace keyload {
namespace {

TEST(ShareSlots, OneCallerHasAtMostHalf) {
  ShareSlots slots(4);
  std::vector<ShareSlots::Slot> held;
  const auto take = [&](const char* share) {
    std::optional<ShareSlots::Slot> slot = slots.TryTake(share);
    if (slot) held.push_back(*std::move(slot));
    return slot.has_value();
  };
  EXPECT_TRUE(take("a") && take("a"));
  EXPECT_FALSE(take("a"));
  EXPECT_TRUE(take("b") && take("c"));
  EXPECT_FALSE(take("d")) << "all are taken";
  held.pop_back();
  EXPECT_TRUE(take("d"));
}

TEST(ShareSlots, OfOneAloneACallerHasThat) {
  ShareSlots slots(1);
  const auto slot = slots.TryTake("a");
  EXPECT_TRUE(slot.has_value());
  EXPECT_FALSE(slots.TryTake("a").has_value());
}

}  // namespace
}  // namespace keyload
