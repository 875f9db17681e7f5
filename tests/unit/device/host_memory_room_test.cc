#include "server/device/host_memory_room.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace keyload {
namespace {

constexpr uint64_t kMiB = 1 << 20;

// A room in a control group of which the test says what is free.
class HostMemoryRoomTest : public testing::Test {
 protected:
  HostMemoryRoom::Options Options() {
    return {.bounds =
                [this] {
                  ++measurements_;
                  return std::vector<MemoryBound>{{.limit = 1000 * kMiB, .free = free_, .is_machine = false}};
                },
            .margin = [] { return 10 * kMiB; },
            .max_age = std::chrono::hours(1)};
  }
  // Fills what was promised, as the kernel would count it.
  absl::Status Fill(HostMemoryRoom::Promise& promise, uint64_t bytes) {
    const absl::Status status = promise.Begin(bytes);
    if (!status.ok()) return status;
    free_ -= bytes;
    promise.End(bytes);
    return status;
  }

  std::atomic<uint64_t> free_ = 110 * kMiB;
  std::atomic<int> measurements_ = 0;
  HostMemoryRoom room_{Options()};
};

TEST_F(HostMemoryRoomTest, AskForMoreThanIsFreeIsRefusedWithNumbers) {
  const absl::Status refused = room_.Ask(101 * kMiB).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.message(), testing::HasSubstr("control group of the daemon may use 1000.0 MiB, 110.0 MiB of it "
                                                    "are free, and of these 10.0 MiB are kept for the daemon itself"));
  EXPECT_TRUE(room_.Ask(100 * kMiB).ok());
}

TEST_F(HostMemoryRoomTest, TheSameRoomIsNotPromisedTwice) {
  absl::StatusOr<HostMemoryRoom::Promise> first = room_.Ask(60 * kMiB);
  ASSERT_TRUE(first.ok());
  EXPECT_FALSE(room_.Ask(60 * kMiB).ok());
  ASSERT_TRUE(Fill(*first, 30 * kMiB).ok());
  EXPECT_FALSE(room_.Ask(41 * kMiB).ok());
  EXPECT_TRUE(room_.Ask(40 * kMiB).ok());
}

TEST_F(HostMemoryRoomTest, WhatIsSettledOrDestroyedIsFreeForOthers) {
  {
    absl::StatusOr<HostMemoryRoom::Promise> first = room_.Ask(60 * kMiB);
    ASSERT_TRUE(first.ok());
    first->Settle();
    EXPECT_TRUE(room_.Ask(100 * kMiB).ok());
    EXPECT_EQ(room_.promised(), 0u);
  }
  EXPECT_TRUE(room_.Ask(100 * kMiB).ok());
}

TEST_F(HostMemoryRoomTest, ANeighbourThatFillsTheGroupIsNoticedAtTheNextStep) {
  free_ = 1000 * kMiB;
  absl::StatusOr<HostMemoryRoom::Promise> promise = room_.Ask(500 * kMiB);
  ASSERT_TRUE(promise.ok());
  ASSERT_TRUE(Fill(*promise, 4 * kMiB).ok());
  free_ = 100 * kMiB;
  uint64_t filled = 0;
  while (Fill(*promise, 4 * kMiB).ok()) filled += 4 * kMiB;
  EXPECT_LE(filled, HostMemoryRoom::kStep);
}

TEST_F(HostMemoryRoomTest, FillingMeasuresOncePerStep) {
  free_ = 1000 * kMiB;
  absl::StatusOr<HostMemoryRoom::Promise> promise = room_.Ask(640 * kMiB);
  ASSERT_TRUE(promise.ok());
  for (int i = 0; i < 640; ++i) ASSERT_TRUE(Fill(*promise, kMiB).ok());
  EXPECT_LE(measurements_, 12);
  EXPECT_EQ(room_.promised(), 0u);
}

TEST_F(HostMemoryRoomTest, FillingBeyondThePromiseAsksForTheRest) {
  absl::StatusOr<HostMemoryRoom::Promise> promise = room_.Ask(kMiB);
  ASSERT_TRUE(promise.ok());
  EXPECT_TRUE(Fill(*promise, 2 * kMiB).ok());
  EXPECT_FALSE(Fill(*promise, 99 * kMiB).ok());
  EXPECT_EQ(room_.promised(), 0u);
}

TEST_F(HostMemoryRoomTest, IdleMemoryIsReclaimedBeforeAnythingIsRefused) {
  uint64_t idle = 50 * kMiB;
  room_.AddReclaimer([&](uint64_t bytes) {
    const uint64_t freed = std::min(bytes, idle);
    idle -= freed;
    free_ += freed;
  });
  EXPECT_TRUE(room_.Ask(120 * kMiB).ok());
  EXPECT_EQ(idle, 30 * kMiB);
  EXPECT_FALSE(room_.Ask(200 * kMiB).ok());
}

TEST_F(HostMemoryRoomTest, WithoutBoundsNothingIsRefused) {
  HostMemoryRoom boundless({.bounds = [] { return std::vector<MemoryBound>(); }, .margin = nullptr});
  absl::StatusOr<HostMemoryRoom::Promise> promise = boundless.Ask(uint64_t{1} << 50);
  ASSERT_TRUE(promise.ok());
  EXPECT_TRUE(promise->Begin(uint64_t{1} << 40).ok());
}

TEST_F(HostMemoryRoomTest, ManyThreadsNeverFillMoreThanIsFree) {
  HostMemoryRoom::Options options = Options();
  options.max_age = std::chrono::nanoseconds(0);
  HostMemoryRoom room(std::move(options));
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 300; ++round) {
        absl::StatusOr<HostMemoryRoom::Promise> promise = room.Ask(40 * kMiB);
        if (!promise.ok()) continue;
        for (int step = 0; step < 4; ++step) ASSERT_TRUE(Fill(*promise, 10 * kMiB).ok());
        EXPECT_GE(free_, 10 * kMiB);
        free_ += 40 * kMiB;
      }
    });
  }
  threads.clear();
  EXPECT_EQ(free_, 110 * kMiB);
  EXPECT_EQ(room.promised(), 0u);
}

}  // namespace
}  // namespace keyload
