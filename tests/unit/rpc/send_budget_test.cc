#include "server/rpc/send_budget.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "server/rpc/read_rate.h"

namespace keyload {
namespace {

constexpr uint64_t kMiB = 1 << 20;

TEST(SendBudget, OnePeerGetsAQuarterAndAnotherOneItsOwn) {
  SendBudget budget(64 * kMiB);  // messages cost twice their size
  SendBudget::Hold first(budget, "a"), second(budget, "a"), third(budget, "b");
  EXPECT_TRUE(first.TryTake(8 * kMiB));
  EXPECT_FALSE(second.TryTake(kMiB));
  EXPECT_TRUE(third.TryTake(8 * kMiB));
  first.Release();
  EXPECT_TRUE(second.TryTake(kMiB));
}

TEST(SendBudget, SmallMessagesAreAlwaysSent) {
  SendBudget budget(kMiB);
  SendBudget::Hold large(budget, "a"), small(budget, "a");
  ASSERT_TRUE(large.TryTake(kMiB / 8));
  EXPECT_TRUE(small.TryTake(SendBudget::kFreeBytes));
}

TEST(SendBudget, ChunksShrinkAsItFillsAndNeverEnd) {
  SendBudget budget(64 * kMiB);
  std::vector<std::unique_ptr<SendBudget::Hold>> holds;
  uint64_t all = 0, last = kMiB;
  for (int i = 0; i < 1000; ++i) {
    holds.push_back(std::make_unique<SendBudget::Hold>(budget, "a"));
    const uint64_t chunk = holds.back()->TakeChunk(kMiB);
    EXPECT_LE(chunk, last);
    EXPECT_GE(chunk, SendBudget::kFreeBytes);
    all += chunk;
    last = chunk;
  }
  EXPECT_EQ(last, SendBudget::kFreeBytes);
  EXPECT_LE(2 * all, budget.per_peer_bytes() + 2 * 1000 * SendBudget::kFreeBytes);
  holds.clear();
  SendBudget::Hold again(budget, "a");
  EXPECT_EQ(again.TakeChunk(kMiB), kMiB) << "everything came back";
}

TEST(SendBudget, WhatAMessageDoesNotNeedIsFree) {
  SendBudget budget(64 * kMiB);
  SendBudget::Hold first(budget, "a"), second(budget, "a");
  ASSERT_TRUE(first.TryTake(8 * kMiB));
  first.Shrink(4 * kMiB);
  EXPECT_TRUE(second.TryTake(4 * kMiB));
}

constexpr ReadRate::Clock::time_point kStart{std::chrono::hours(1)};
constexpr std::chrono::seconds kLimit{60};

TEST(ReadRate, AClientThatTakesNothingIsTooSlowAfterTheLimit) {
  ReadRate rate;
  rate.Sent(kStart, kMiB);
  EXPECT_FALSE(rate.IsTooSlow(kStart + std::chrono::seconds(59), kLimit));
  EXPECT_TRUE(rate.IsTooSlow(kStart + kLimit, kLimit));
  EXPECT_FALSE(rate.IsTooSlow(kStart + 2 * kLimit, kLimit)) << "told once";
}

TEST(ReadRate, OneMessageInAlmostAMinuteIsTooSlow) {
  ReadRate rate;
  rate.Sent(kStart, kMiB);
  rate.Taken(kStart + std::chrono::seconds(55));
  rate.Sent(kStart + std::chrono::seconds(55), kMiB);
  EXPECT_TRUE(rate.IsTooSlow(kStart + kLimit, kLimit));
}

TEST(ReadRate, EnoughBytesInTheTimeAreNot) {
  ReadRate rate;
  ReadRate::Clock::time_point now = kStart;
  for (int i = 0; i < 100; ++i) {
    rate.Sent(now, kMiB);
    now += std::chrono::seconds(10);
    EXPECT_FALSE(rate.IsTooSlow(now, kLimit)) << i;
    rate.Taken(now);
  }
}

TEST(ReadRate, TimeInWhichNothingIsToBeTakenDoesNotCount) {
  ReadRate rate;
  rate.Sent(kStart, 100);
  rate.Taken(kStart + std::chrono::seconds(1));
  EXPECT_FALSE(rate.IsTooSlow(kStart + std::chrono::hours(1), kLimit));
}

}  // namespace
}  // namespace keyload
