#include "server/io/storage_threads.h"

#include <gtest/gtest.h>

#include <latch>
#include <memory>
#include <new>
#include <stdexcept>
#include <stop_token>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "server/base/error.h"
#include "server/base/executor.h"
#include "server/base/no_throw.h"
#include "server/base/pool_turn.h"
#include "server/base/strings.h"
#include "tests/support/failing_heap.h"

namespace keyload {
namespace {

constexpr char kPath[] = "/proc/self";

// Steps that hang until they are let go, and go before the threads do.
class Hang {
 public:
  ~Hang() {
    gate_->count_down();
    while (!threads_.under_way().empty()) absl::SleepFor(absl::Milliseconds(1));
  }
  StorageThreads& threads() { return threads_; }
  // Runs one whose caller goes away once it hangs: its thread is left behind.
  absl::Status Begin() {
    std::stop_source stop;
    const auto hangs = std::make_shared<std::latch>(1);
    std::thread caller_goes([&stop, hangs] {
      hangs->wait();
      stop.request_stop();
    });
    absl::Status status = threads_.Run(kPath, {.stop = stop.get_token()}, [gate = gate_, hangs] {
      hangs->count_down();
      gate->wait();
      return absl::OkStatus();
    });
    if (ErrorReason(status) == Reason::kIoError) hangs->count_down();  // it was refused
    caller_goes.join();
    return status;
  }

 private:
  StorageThreads threads_{{.share = 2, .stuck_after = absl::Milliseconds(1)}};
  std::shared_ptr<std::latch> gate_ = std::make_shared<std::latch>(1);
};

TEST(StorageThreads, StepGivesItsResultAndItsErrors) {
  StorageThreads threads({});
  const RequestContext context;
  const auto number = threads.Run(kPath, context, []() -> absl::StatusOr<int> { return 7; });
  EXPECT_EQ(number.value_or(0), 7);
  EXPECT_EQ(threads.Run(kPath, context, [] { return absl::AbortedError("no"); }).code(), absl::StatusCode::kAborted);
  const absl::Status thrown = threads.Run(kPath, context, []() -> absl::Status { throw std::bad_alloc(); });
  EXPECT_EQ(ErrorReason(thrown), Reason::kMemoryExhausted);
  const absl::Status bug = threads.Run(kPath, context, []() -> absl::Status { throw std::logic_error("a bug"); });
  EXPECT_EQ(ErrorReason(bug), Reason::kInternal);
  EXPECT_TRUE(threads.under_way().empty());
}

class CountedTurn : public PoolTurn {
 public:
  void GiveUp() override { given_up.count_down(); }
  void TakeBack() override {}
  std::latch given_up{1};
};

TEST(StorageThreads, WhatThereIsNoMemoryForLeavesNothingUnderWay) {
  using Operation = StorageThreads::Operation;
  const std::string path = StrCat("/proc/self/", std::string(100, 'x'));  // too long for a string without heap
  const std::string mount(100, 'm');
  StorageThreads threads({.stuck_after = absl::Milliseconds(1)});
  CountedTurn turn;
  const PoolTurn::Scope scope(turn);
  size_t refused = 1;
  for (size_t first = 1; refused > 0; ++first) {
    const FailingHeap heap(first);
    NoThrow([&] { const Operation operation({&threads, mount}); }).IgnoreError();
    refused = heap.refused();
  }
  refused = 1;
  for (size_t first = 1; refused > 0; ++first) {
    const FailingHeap heap(first);
    NoThrow([&] { return threads.Run(path, {}, [] { return absl::OkStatus(); }); }).IgnoreError();
    refused = heap.refused();
  }
  while (!threads.under_way().empty()) absl::SleepFor(absl::Milliseconds(1));
  const Operation operation({&threads, mount});
  turn.given_up.wait();
}

TEST(StorageThreads, DeadlineAndCancelEndTheCallThoughTheStepHangs) {
  Hang hang;
  EXPECT_EQ(ErrorReason(hang.Begin()), Reason::kLoadCancelled);
  const auto gate = std::make_shared<std::latch>(1);
  const absl::Status late = hang.threads().Run(kPath, {.deadline = Deadline::After(absl::Seconds(1))}, [gate] {
    gate->wait();
    return absl::OkStatus();
  });
  EXPECT_EQ(ErrorReason(late), Reason::kDeadlineExceeded);
  const std::vector<StuckMount> stuck = hang.threads().stuck();
  ASSERT_EQ(stuck.size(), 1u);
  EXPECT_EQ(stuck[0].mount, "/proc");
  EXPECT_EQ(stuck[0].operations, 2u);
  gate->count_down();
}

TEST(StorageThreads, StuckMountRefusesWhatIsBeyondItsShareAndOthersGoOn) {
  Hang hang;
  for (int i = 0; i < 2; ++i) EXPECT_EQ(ErrorReason(hang.Begin()), Reason::kLoadCancelled);
  const absl::Status refused = hang.Begin();
  EXPECT_EQ(ErrorReason(refused), Reason::kIoError);
  EXPECT_EQ(ErrorDetails(refused)["mount"], "/proc");
  EXPECT_TRUE(hang.threads().Run("/", RequestContext(), [] { return absl::OkStatus(); }).ok());
}

TEST(StorageThreads, WaitForAStuckMountLeavesThePoolItsTurn) {
  Hang hang;
  Executor pool({.name = "test", .threads = 1, .queue_limit = 8});
  std::latch other(1);
  std::stop_source stop;
  absl::Status waited;
  ASSERT_TRUE(pool.TrySubmit([&] {
    waited = hang.threads().Run(kPath, {.stop = stop.get_token()}, [&] {
      other.wait();  // until another task of the pool, which has one thread, has run
      return absl::OkStatus();
    });
  }));
  ASSERT_TRUE(pool.TrySubmit([&] { other.count_down(); }));
  other.wait();
}

TEST(StorageThreads, OperationThatHangsGivesUpTheTurnsOfTheThreadsThatItHoldsUp) {
  using Operation = StorageThreads::Operation;
  StorageThreads threads({.share = 2, .stuck_after = absl::Milliseconds(1)});
  Executor pool({.name = "test", .threads = 2, .queue_limit = 8});
  std::latch other(1);
  std::vector<StuckMount> stuck;
  ASSERT_TRUE(pool.TrySubmit([&] {
    const Operation reading({&threads, "/mount"});
    other.wait();
  }));
  ASSERT_TRUE(pool.TrySubmit([&] {
    const Operation waiting({&threads, "/mount"}, Operation::Kind::kWaits);
    const Operation comparing({&threads, "/mount"});  // of the same thread, which has one turn
    other.wait();
  }));
  ASSERT_TRUE(pool.TrySubmit([&] {
    stuck = threads.stuck();
    other.count_down();
  }));
  other.wait();
  ASSERT_EQ(stuck.size(), 1u);
  EXPECT_EQ(stuck[0].mount, "/mount");
  while (!threads.under_way().empty()) absl::SleepFor(absl::Milliseconds(1));
  std::latch both(2);  // the pool has its two turns again, and no more
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(pool.TrySubmit([&] { both.arrive_and_wait(); }));
}

TEST(StorageThreads, MountOfAPathIsFoundWithoutTouchingItLonger) {
  StorageThreads threads({});
  EXPECT_EQ(threads.MountOf("/proc/self/stat", absl::Seconds(30)), "/proc");
}

}  // namespace
}  // namespace keyload
