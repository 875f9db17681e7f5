#include "server/io/byte_budget.h"

#include <gtest/gtest.h>

#include <future>
#include <stop_token>
#include <thread>

#include "server/base/error.h"

namespace keyload {
namespace {

TEST(ByteBudgetTest, GrantsAreCountedUntilTheyAreDestroyed) {
  ByteBudget budget(100);
  {
    auto grant = budget.Acquire(60, {});
    ASSERT_TRUE(grant.ok());
    EXPECT_EQ(grant->bytes(), 60u);
    EXPECT_EQ(budget.used(), 60u);
    const ByteBudget::Grant moved = *std::move(grant);
    EXPECT_EQ(budget.used(), 60u);
  }
  EXPECT_EQ(budget.used(), 0u);
}

TEST(ByteBudgetTest, AWaiterGetsWhatIsGivenBack) {
  ByteBudget budget(100);
  auto first = std::make_unique<ByteBudget::Grant>(*budget.Acquire(60, {}));
  std::future<uint64_t> second = std::async(std::launch::async, [&] { return budget.Acquire(60, {})->bytes(); });
  first.reset();
  EXPECT_EQ(second.get(), 60u);
}

TEST(ByteBudgetTest, ADemandOverTheLimitIsGrantedAlone) {
  ByteBudget budget(100);
  const auto grant = budget.Acquire(1000, {});
  ASSERT_TRUE(grant.ok());
  const RequestContext expired = {.stop = {}, .deadline = Deadline::After(absl::Milliseconds(1))};
  EXPECT_EQ(ErrorReason(budget.Acquire(1, expired).status()), Reason::kDeadlineExceeded);
}

TEST(ByteBudgetTest, AStopRequestEndsTheWait) {
  ByteBudget budget(100);
  const auto all = budget.Acquire(100, {});
  std::stop_source stop;
  std::future<absl::Status> waiter =
      std::async(std::launch::async, [&] { return budget.Acquire(1, {.stop = stop.get_token()}).status(); });
  stop.request_stop();
  EXPECT_EQ(ErrorReason(waiter.get()), Reason::kLoadCancelled);
  EXPECT_EQ(budget.used(), 100u);
}

TEST(ByteBudgetTest, AStoppedCallerGetsNothingEvenIfBytesAreFree) {
  ByteBudget budget(100);
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(ErrorReason(budget.Acquire(1, {.stop = stop.get_token()}).status()), Reason::kLoadCancelled);
}

TEST(ByteBudgetTest, ManyThreadsNeverExceedTheLimit) {
  ByteBudget budget(100);
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 500; ++round) {
        const auto grant = budget.Acquire(40, {});
        EXPECT_LE(budget.used(), 100u);
      }
    });
  }
  threads.clear();
  EXPECT_EQ(budget.used(), 0u);
}

TEST(ByteBudgetTest, TryAcquireDoesNotOvertakeAWaiter) {
  ByteBudget budget(100);
  auto first = std::make_unique<ByteBudget::Grant>(*budget.Acquire(60, {}));
  std::future<uint64_t> waiter = std::async(std::launch::async, [&] { return budget.Acquire(60, {})->bytes(); });
  while (!budget.awaited()) std::this_thread::yield();
  EXPECT_FALSE(budget.TryAcquire(10).ok());
  first.reset();
  EXPECT_EQ(waiter.get(), 60u);
}

TEST(ByteBudgetTest, AWaiterThatGivesUpLetsTheNextOneIn) {
  ByteBudget budget(100);
  const auto first = budget.Acquire(60, {});
  std::stop_source stop;
  std::future<absl::Status> large =
      std::async(std::launch::async, [&] { return budget.Acquire(60, {.stop = stop.get_token()}).status(); });
  while (!budget.awaited()) std::this_thread::yield();
  std::future<absl::Status> small = std::async(std::launch::async, [&] { return budget.Acquire(40, {}).status(); });
  stop.request_stop();
  EXPECT_EQ(ErrorReason(large.get()), Reason::kLoadCancelled);
  EXPECT_TRUE(small.get().ok());
}

TEST(ByteBudgetTest, AWaiterGetsWhatAReclaimerGivesBack) {
  ByteBudget budget(100);
  auto idle = std::make_unique<ByteBudget::Grant>(*budget.Acquire(100, {}));
  const ByteBudget::Reclaimer reclaimer(budget, [&] { idle.reset(); });
  EXPECT_TRUE(budget.Acquire(50, {}).ok());
}

}  // namespace
}  // namespace keyload
