#include "server/load/slab_pool.h"

#include <gtest/gtest.h>

#include <thread>

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

}  // namespace
}  // namespace keyload
