#include "server/load/slab_pool.h"

#include <gtest/gtest.h>

#include <future>
#include <thread>
#include <vector>

#include "server/base/error.h"

namespace keyload {
namespace {

TEST(SlabPool, ReusesWhatIsPutBack) {
  ByteBudget budget(1000);
  SlabPool pool(budget, 100, 4);
  const std::span<std::byte> first = *pool.Take({});
  pool.PutBack(first);
  EXPECT_EQ(pool.Take({})->data(), first.data());
  EXPECT_EQ(pool.peak_bytes(), 100);
}

TEST(SlabPool, WaitsForASlabWhenAllAreOut) {
  ByteBudget budget(1000);
  SlabPool pool(budget, 100, 1);
  const std::span<std::byte> only = *pool.Take({});
  std::jthread putting_back([&] { pool.PutBack(only); });
  EXPECT_EQ(pool.Take({})->data(), only.data());
}

TEST(SlabPool, ASlabThatTheBudgetRefusesIsWaitedForInThePool) {
  ByteBudget budget(100);
  SlabPool pool(budget, 100, 2);
  const std::span<std::byte> only = *pool.Take({});
  std::jthread putting_back([&] { pool.PutBack(only); });
  EXPECT_EQ(pool.Take({})->data(), only.data());
  EXPECT_EQ(pool.peak_bytes(), 100);
}

TEST(SlabPool, ACancelledWaitEnds) {
  ByteBudget budget(1000);
  SlabPool pool(budget, 100, 1);
  ASSERT_TRUE(pool.Take({}).ok());
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(ErrorReason(pool.Take({.stop = stop.get_token()}).status()), Reason::kLoadCancelled);
}

TEST(SlabPool, GivesItsBudgetBackAtTheEnd) {
  ByteBudget budget(1000);
  {
    SlabPool pool(budget, 100, 4);
    ASSERT_TRUE(pool.Take({}).ok());
    EXPECT_EQ(budget.used(), 100);
  }
  EXPECT_EQ(budget.used(), 0);
}

TEST(SlabPool, TakeOfASecondLoadGetsTheIdleSlabsOfTheFirst) {
  ByteBudget budget(400);
  SlabPool first(budget, 100, 4);
  std::vector<std::span<std::byte>> slabs;
  for (int i = 0; i < 4; ++i) slabs.push_back(*first.Take({}));
  for (const std::span<std::byte> slab : slabs) first.PutBack(slab);
  EXPECT_EQ(budget.used(), 400);
  SlabPool second(budget, 100, 4);
  const RequestContext soon = {.deadline = Deadline::After(absl::Seconds(20))};
  EXPECT_TRUE(second.Take(soon).ok());
  EXPECT_EQ(budget.used(), 100);
  EXPECT_EQ(first.peak_bytes(), 400);
  EXPECT_TRUE(first.Take(soon).ok());
}

TEST(SlabPool, PutBackGivesTheSlabToALoadThatWaits) {
  ByteBudget budget(100);
  SlabPool first(budget, 100, 4);
  SlabPool second(budget, 100, 4);
  const std::span<std::byte> slab = *first.Take({});
  const RequestContext soon = {.deadline = Deadline::After(absl::Seconds(20))};
  std::future<absl::Status> waiting = std::async(std::launch::async, [&] { return second.Take(soon).status(); });
  while (!budget.awaited()) std::this_thread::yield();
  first.PutBack(slab);
  EXPECT_TRUE(waiting.get().ok());
}

}  // namespace
}  // namespace keyload
