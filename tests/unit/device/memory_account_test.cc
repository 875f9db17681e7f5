#include "server/device/memory_account.h"

#include <gtest/gtest.h>

#include <limits>
#include <thread>
#include <vector>

#include "server/base/error.h"

namespace keyload {
namespace {

TEST(MemoryAccountTest, AReservationGivesBackWhatWasNotCommitted) {
  MemoryAccount account("cuda:0", 100);
  {
    auto reservation = account.Reserve(60);
    ASSERT_TRUE(reservation.ok());
    EXPECT_TRUE(account.Commit(*reservation, 20));
    EXPECT_EQ(reservation->remaining(), 40u);
    EXPECT_EQ(account.state().used, 20u);
    EXPECT_EQ(account.state().reserved, 40u);
    const MemoryReservation moved = *std::move(reservation);
    EXPECT_EQ(account.state().reserved, 40u);
  }
  EXPECT_EQ(account.state().used, 20u);
  EXPECT_EQ(account.state().reserved, 0u);
  account.Free(20);
  EXPECT_EQ(account.state().free(), 100u);
}

TEST(MemoryAccountTest, APartOfAReservationIsGivenBackByItself) {
  MemoryAccount account("cuda:0", 100);
  MemoryReservation reservation = *account.Reserve(60);
  {
    MemoryReservation part = reservation.Split(20);
    EXPECT_EQ(reservation.remaining(), 40u);
    EXPECT_EQ(account.state().reserved, 60u);
    EXPECT_TRUE(account.Commit(part, 5));
  }
  EXPECT_EQ(account.state().reserved, 40u);
  EXPECT_EQ(account.state().used, 5u);
}

TEST(MemoryAccountTest, MoreThanWhatIsFreeIsRefusedWithTheFigures) {
  MemoryAccount account("cuda:0", 100);
  const auto held = account.Reserve(70);
  for (const uint64_t bytes : {uint64_t{31}, std::numeric_limits<uint64_t>::max()}) {
    const absl::Status status = account.Reserve(bytes).status();
    EXPECT_EQ(ErrorReason(status), Reason::kDeviceOutOfMemory);
    const ErrorMetadata expected = {{"device", "cuda:0"},
                                    {"requested_bytes", std::to_string(bytes)},
                                    {"free_bytes", "30"},
                                    {"capacity_bytes", "100"}};
    EXPECT_EQ(ErrorDetails(status), expected);
  }
  EXPECT_TRUE(account.Reserve(30).ok());
}

TEST(MemoryAccountTest, ACommitBeyondTheReservationChangesNothing) {
  MemoryAccount account("cpu", 100);
  auto reservation = account.Reserve(50);
  EXPECT_FALSE(account.Commit(*reservation, 51));
  EXPECT_EQ(reservation->remaining(), 50u);
  EXPECT_EQ(account.state().used, 0u);
}

TEST(MemoryAccountTest, ManyThreadsLeaveTheAccountExact) {
  MemoryAccount account("cpu", 1000);
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 1000; ++round) {
        auto reservation = account.Reserve(300);
        if (!reservation.ok()) continue;
        EXPECT_LE(account.state().used + account.state().reserved, 1000u);
        EXPECT_TRUE(account.Commit(*reservation, 100));
        account.Free(100);
      }
    });
  }
  threads.clear();
  EXPECT_EQ(account.state().free(), 1000u);
}

}  // namespace
}  // namespace keyload
