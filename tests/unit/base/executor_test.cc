#include "server/base/executor.h"

#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <new>
#include <stdexcept>
#include <vector>

#include "server/base/error.h"
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

TEST(Executor, ATaskThatThrowsFailsAloneAndItsThreadGoesOn) {
  absl::Status failed;
  std::latch done(1);
  Executor executor({.name = "test", .threads = 1, .queue_limit = 4});
  ASSERT_TRUE(
      executor
          .Submit({.run = [] { throw std::bad_alloc(); }, .fail = [&](const absl::Status& status) { failed = status; }})
          .ok());
  ASSERT_TRUE(executor.TrySubmit([] { throw std::runtime_error("nobody waits for it"); }));
  ASSERT_TRUE(executor.TrySubmit([&] { done.count_down(); }));
  done.wait();
  EXPECT_EQ(ErrorReason(failed), Reason::kMemoryExhausted);
}

TEST(Executor, AnAnswerThatThrowsTooIsGivenOnceMoreWithoutAMessage) {
  std::vector<absl::Status> failed;
  {
    Executor executor({.name = "test", .threads = 1, .queue_limit = 4});
    ASSERT_TRUE(executor
                    .Submit({.run = [] { throw std::bad_alloc(); },
                             .fail =
                                 [&](const absl::Status& status) {
                                   failed.push_back(status);
                                   if (!status.message().empty()) throw std::bad_alloc();
                                 }})
                    .ok());
  }
  ASSERT_EQ(failed.size(), 2u);
  EXPECT_EQ(failed[1], absl::Status(absl::StatusCode::kResourceExhausted, ""));
}

TEST(Executor, OneCallerCannotTakeAllThreads) {
  std::latch held(2), release(1), other(1);
  std::atomic<int> third = 0;
  Executor executor({.name = "test", .threads = 3, .queue_limit = 8, .caller_threads = 2});
  const auto hold = [&] {
    held.count_down();
    release.wait();
  };
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(executor.Submit({.caller = "greedy", .run = hold}).ok());
  held.wait();
  ASSERT_TRUE(executor.Submit({.caller = "greedy", .run = [&] { ++third; }}).ok());
  ASSERT_TRUE(executor.Submit({.caller = "other", .run = [&] { other.count_down(); }}).ok());
  other.wait();  // runs while the first caller has its share, and more waiting before
  EXPECT_EQ(third, 0);
  EXPECT_EQ(executor.queued(), 1u);
  release.count_down();
}

TEST(Executor, TaskThatGivesItsTurnUpGivesItsCallersShareUpToo) {
  std::latch started(1), release(1), other(1);
  Executor executor({.name = "test", .threads = 2, .queue_limit = 8, .caller_threads = 1});
  const auto hang = [&] {
    PoolTurn::current()->GiveUp();
    started.count_down();
    release.wait();
    PoolTurn::current()->TakeBack();
  };
  ASSERT_TRUE(executor.Submit({.caller = "a", .run = hang}).ok());
  started.wait();
  ASSERT_TRUE(executor.Submit({.caller = "a", .run = [&] { other.count_down(); }}).ok());
  other.wait();
  release.count_down();
}

TEST(Executor, RefusesWhatIsBeyondACallersPartOfTheQueue) {
  std::latch held(1), release(1);
  Executor executor({.name = "test", .threads = 1, .queue_limit = 3, .caller_queue = 2});
  ASSERT_TRUE(executor.TrySubmit([&] {
    held.count_down();
    release.wait();
  }));
  held.wait();
  EXPECT_TRUE(executor.Submit({.caller = "greedy", .run = [] {}}).ok());
  EXPECT_TRUE(executor.Submit({.caller = "greedy", .run = [] {}}).ok());
  EXPECT_EQ(ErrorReason(executor.Submit({.caller = "greedy", .run = [] {}})), Reason::kLoadQueueFull);
  EXPECT_TRUE(executor.Submit({.caller = "other", .run = [] {}}).ok());
  release.count_down();
}

TEST(Executor, FinishesWhatACallerHasQueuedBeyondItsShareBeforeItIsDestroyed) {
  std::atomic<int> done = 0;
  {
    Executor executor({.name = "test", .threads = 2, .queue_limit = 100, .caller_threads = 1});
    for (int i = 0; i < 100; ++i) ASSERT_TRUE(executor.Submit({.caller = "a", .run = [&] { ++done; }}).ok());
  }
  EXPECT_EQ(done, 100);
}

}  // namespace
}  // namespace keyload
