#include "server/base/parallel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "server/base/mutex.h"
#include "tests/support/failing_heap.h"

namespace keyload {
namespace {

Executor::Options Threads(size_t threads) { return {.name = "test", .threads = threads, .queue_limit = 8}; }

TEST(ParallelFor, CallsEachNumberOnce) {
  Executor executor(Threads(3));
  for (Executor* threads : {static_cast<Executor*>(nullptr), &executor}) {
    std::vector<std::atomic<int>> calls(500);
    EXPECT_TRUE(ParallelFor(threads, calls.size(), [&](size_t i) {
                  ++calls[i];
                  return absl::OkStatus();
                }).ok());
    for (const auto& count : calls) EXPECT_EQ(count, 1);
  }
  EXPECT_TRUE(ParallelFor(&executor, 0, [](size_t) { return absl::InternalError("called"); }).ok());
}

TEST(ParallelFor, UsesTheExecutorsThreadsTogether) {
  Executor executor(Threads(2));
  std::atomic<int> arrived = 0;
  std::promise<void> all;
  std::shared_future<void> together = all.get_future().share();
  EXPECT_TRUE(ParallelFor(&executor, 3, [&](size_t) {
                if (++arrived == 3) all.set_value();
                together.wait();  // for ever, unless three threads are here
                return absl::OkStatus();
              }).ok());
}

TEST(ParallelFor, TakesNoMoreHelpersThanItMay) {
  Executor executor(Threads(4));
  Mutex mutex;
  std::set<std::thread::id> threads;
  for (int round = 0; round < 100; ++round) {
    EXPECT_TRUE(ParallelFor(
                    &executor, 4,
                    [&](size_t) {
                      MutexLock lock(mutex);
                      threads.insert(std::this_thread::get_id());
                      return absl::OkStatus();
                    },
                    /*most_helpers=*/0)
                    .ok());
  }
  EXPECT_THAT(threads, testing::ElementsAre(std::this_thread::get_id()));

  std::atomic<int> together = 0;
  std::atomic<int> most = 0;
  EXPECT_TRUE(ParallelFor(
                  &executor, 500,
                  [&](size_t) {
                    const int now = ++together;
                    for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) continue;
                    std::this_thread::yield();
                    --together;
                    return absl::OkStatus();
                  },
                  /*most_helpers=*/1)
                  .ok());
  EXPECT_LE(most, 2);
}

TEST(ParallelFor, ReturnsTheErrorOfTheLowestNumber) {
  Executor executor(Threads(4));
  for (int round = 0; round < 200; ++round) {
    const absl::Status status = ParallelFor(&executor, 64, [&](size_t i) {
      return i % 10 == 7 ? absl::InternalError(std::to_string(i)) : absl::OkStatus();
    });
    EXPECT_EQ(status.message(), "7");
  }
}

TEST(ParallelFor, ReturnsTheErrorOfTheLowestNumberAlsoIfItComesLast) {
  Executor executor(Threads(1));
  for (int round = 0; round < 100; ++round) {
    std::promise<void> second;
    const absl::Status status = ParallelFor(&executor, 2, [&](size_t i) {
      if (i == 0) {
        second.get_future().wait();
      } else {
        second.set_value();
      }
      return absl::InternalError(std::to_string(i));
    });
    EXPECT_EQ(status.message(), "0");
  }
}

TEST(ParallelFor, LeavesOutWhatComesAfterAnError) {
  size_t calls = 0;
  EXPECT_FALSE(ParallelFor(nullptr, 1000, [&](size_t i) {
                 ++calls;
                 return i == 2 ? absl::InternalError("two") : absl::OkStatus();
               }).ok());
  EXPECT_EQ(calls, 3u);
}

TEST(ParallelFor, WaitsForNoThreadThatIsBusyElsewhere) {
  std::promise<void> release;
  Executor executor(Threads(1));  // waits for its thread before the promise goes
  ASSERT_TRUE(executor.TrySubmit([&] { release.get_future().wait(); }));
  size_t calls = 0;
  EXPECT_TRUE(ParallelFor(&executor, 10, [&](size_t) {
                ++calls;
                return absl::OkStatus();
              }).ok());
  EXPECT_EQ(calls, 10u);
  release.set_value();
}

TEST(ParallelFor, WaitsForHelpersAlsoWhenThereIsNoMemoryForMore) {
  Executor executor({.name = "test", .threads = 8, .queue_limit = 64});
  size_t refused = 1;
  for (size_t first = 2; refused > 0; ++first) {  // from the first allocation after that of the loop on
    std::atomic<int> calls = 0;
    std::atomic<int> inside = 0;
    absl::Status status;
    {
      const FailingHeap heap(first);
      status = ParallelFor(&executor, 100, [&](size_t) {
        ++inside;
        ++calls;
        --inside;
        return absl::OkStatus();
      });
      refused = heap.refused();
    }
    EXPECT_EQ(inside, 0);
    EXPECT_EQ(calls, 100);
    EXPECT_TRUE(status.ok()) << "by fewer threads";
  }
}

TEST(ParallelFor, MayBeCalledOnAThreadOfItsExecutor) {
  Executor executor(Threads(2));
  std::promise<bool> ended[2];
  for (auto& end : ended) {
    ASSERT_TRUE(executor.TrySubmit([&executor, &end] {
      end.set_value(ParallelFor(&executor, 100, [](size_t) { return absl::OkStatus(); }).ok());
    }));
  }
  for (auto& end : ended) EXPECT_TRUE(end.get_future().get());
}

}  // namespace
}  // namespace keyload
