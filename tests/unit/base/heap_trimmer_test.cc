#include "server/base/heap_trimmer.h"

#include <gtest/gtest.h>

namespace keyload {
namespace {

constexpr size_t kMiB = 1 << 20;

TEST(TrimDecision, WaitsUntilFreeHeapRests) {
  TrimDecision decision;
  EXPECT_FALSE(decision.Look(100 * kMiB));
  EXPECT_FALSE(decision.Look(50 * kMiB));
  EXPECT_TRUE(decision.Look(50 * kMiB));
}

TEST(TrimDecision, WhatWasGivenBackIsNotGivenBackAgain) {
  TrimDecision decision;
  decision.Look(100 * kMiB);
  ASSERT_TRUE(decision.Look(100 * kMiB));
  decision.Trimmed(100 * kMiB);  // malloc still calls it free
  EXPECT_FALSE(decision.Look(100 * kMiB));
}

TEST(TrimDecision, FreeHeapThatIsUsedAndFreedAgainIsGivenBack) {
  TrimDecision decision;
  decision.Trimmed(100 * kMiB);
  decision.Look(20 * kMiB);
  decision.Look(100 * kMiB);
  EXPECT_TRUE(decision.Look(100 * kMiB));
}

TEST(TrimDecision, LittleIsLeftAlone) {
  TrimDecision decision;
  decision.Look(7 * kMiB);
  EXPECT_FALSE(decision.Look(7 * kMiB));
}

}  // namespace
}  // namespace keyload
