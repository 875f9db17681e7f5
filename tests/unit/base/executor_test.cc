#include "server/base/executor.h"

#include <gtest/gtest.h>

#include <atomic>
#include <latch>

#include "server/base/pool_turn.h"

namespace keyload {
namespace {

TEST(Executor, RefusesWhatIsBeyondItsQueue) {
  std::latch started(1), release(1);
  Executor executor({.name = "test", .threads = 1, .queue_limit = 2});
  ASSERT_TRUE(executor.TrySubmit([&] {
    started.count_down();
    release.wait();
  }));
  started.wait();
  EXPECT_TRUE(executor.TrySubmit([] {}));
  EXPECT_TRUE(executor.TrySubmit([] {}));
  EXPECT_FALSE(executor.TrySubmit([] {}));
  EXPECT_EQ(executor.queued(), 2);
  release.count_down();
}

TEST(Executor, FinishesWhatIsQueuedBeforeItIsDestroyed) {
  std::atomic<int> done = 0;
  {
    Executor executor({.name = "test", .threads = 2, .queue_limit = 100});
    for (int i = 0; i < 100; ++i) ASSERT_TRUE(executor.TrySubmit([&] { ++done; }));
  }
  EXPECT_EQ(done, 100);
}

TEST(Executor, RunsAsManyTasksAtATimeAsItHasThreads) {
  std::latch both(2);
  Executor executor({.name = "test", .threads = 2, .queue_limit = 2});
  ASSERT_TRUE(executor.TrySubmit([&] { both.arrive_and_wait(); }));
  ASSERT_TRUE(executor.TrySubmit([&] { both.arrive_and_wait(); }));
}

TEST(Executor, TaskThatGivesItsTurnUpLetsAnotherRun) {
  std::latch started(1), release(1), others(2);
  Executor executor({.name = "test", .threads = 1, .queue_limit = 8});
  ASSERT_TRUE(executor.TrySubmit([&] {
    PoolTurn::current()->GiveUp();
    started.count_down();
    release.wait();
    PoolTurn::current()->TakeBack();
  }));
  started.wait();
  std::atomic<int> running = 0;
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(executor.TrySubmit([&] {
      EXPECT_EQ(++running, 1) << "there is one turn";
      --running;
      others.count_down();
    }));
  }
  others.wait();
  release.count_down();
  EXPECT_EQ(executor.threads(), 1u);
  EXPECT_EQ(PoolTurn::current(), nullptr) << "this thread is of no pool";
}

}  // namespace
}  // namespace keyload
