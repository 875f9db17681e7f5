#include <gtest/gtest.h>
#include <unistd.h>

#include <future>
#include <new>
#include <optional>
#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "server/base/error.h"
#include "tests/unit/load/transfer_case.h"

namespace keyload {
namespace {

constexpr uint64_t kMiB = 1 << 20;

std::vector<TestTensor> TwoTensors() {
  std::vector<TestTensor> tensors;
  for (const char* name : {"a", "b"}) {
    tensors.push_back({.name = name, .dtype = DType::kU8, .shape = {6 * kMiB}, .data = PatternBytes(name, 6 * kMiB)});
  }
  return tensors;
}

void ExpectMemoryIsBack(TransferCase& test) {
  EXPECT_EQ(test.gpu().live_allocations(), 0);
  EXPECT_EQ(test.memory("cuda:0").used, 0);
  EXPECT_EQ(test.memory("cuda:0").reserved, 0);
}

TEST(TransferFault, AReadErrorStopsTheLoadAndFreesItsMemory) {
  TransferCase test(TwoTensors(), {.faults = FaultyReader::Faults{.io_error_at = 7 * kMiB}});
  EXPECT_EQ(ErrorReason(test.Run("cuda:0").status()), Reason::kIoError);
  ExpectMemoryIsBack(test);
}

TEST(TransferFault, AnEarlyEndOfFileIsATruncatedCheckpoint) {
  TransferCase test(TwoTensors(), {.faults = FaultyReader::Faults{.end_of_file_at = 9 * kMiB}});
  EXPECT_EQ(ErrorReason(test.Run("cuda:0").status()), Reason::kCheckpointTruncated);
  ExpectMemoryIsBack(test);
}

TEST(TransferFault, AFileThatShrinksMeanwhileHasChanged) {
  TransferCase test(TwoTensors());
  test.gpu().HoldCopies();
  const auto result = test.Run("cuda:0", {}, [&](const LoadProgress&) {
    EXPECT_EQ(truncate(test.shard_path().c_str(), 4096), 0);
    test.gpu().ReleaseCopies();
  });
  EXPECT_EQ(ErrorReason(result.status()), Reason::kCheckpointChanged);
  ExpectMemoryIsBack(test);
}

TEST(TransferFault, AFailedCopyFailsTheLoad) {
  TransferCase test(TwoTensors(), {.gpu = {.fail_copy = 2}});
  EXPECT_EQ(ErrorReason(test.Run("cuda:0").status()), Reason::kInternal);
  ExpectMemoryIsBack(test);
}

TEST(TransferFault, AReadThatThrowsFailsTheLoadAndFreesItsMemory) {
  TransferCase test(TwoTensors(), {.faults = FaultyReader::Faults{.throws = true}});
  EXPECT_EQ(ErrorReason(test.Run("cuda:0").status()), Reason::kMemoryExhausted);
  ExpectMemoryIsBack(test);
}

TEST(TransferFault, AReadThatThrowsIntoMemoryOfTheHostFailsTheLoad) {
  TransferCase test(TwoTensors(), {.faults = FaultyReader::Faults{.throws = true}, .copy = true});
  EXPECT_EQ(ErrorReason(test.Run("cpu").status()), Reason::kMemoryExhausted);
  EXPECT_EQ(test.memory("cpu").used, 0);
}

TEST(TransferFault, ACopyThatCannotBeStartedFailsTheLoadAndFreesItsMemory) {
  for (const uint64_t copy : {1, 2, 3}) {
    TransferCase test(TwoTensors(), {.gpu = {.throw_copy = copy}});
    EXPECT_EQ(ErrorReason(test.Run("cuda:0").status()), Reason::kMemoryExhausted);
    ExpectMemoryIsBack(test);
  }
}

TEST(TransferFault, ADeviceThatIsTooSmallIsFoundBeforeTheFirstRead) {
  TransferCase test(TwoTensors(), {.gpu = {.capacity_bytes = 12 * kMiB - 1}, .faults = FaultyReader::Faults{}});
  EXPECT_EQ(ErrorReason(test.Run("cuda:0").status()), Reason::kDeviceOutOfMemory);
  EXPECT_EQ(test.gpu().allocations(), 0);
  ExpectMemoryIsBack(test);
}

TEST(TransferFault, AnAllocationThatTheSystemRefusesFreesTheOthers) {
  TransferCase test(TwoTensors(), {.gpu = {.fail_allocation = 1}});
  EXPECT_EQ(ErrorReason(test.Run("cuda:0").status()), Reason::kDeviceOutOfMemory);
  ExpectMemoryIsBack(test);
}

TEST(TransferFault, CancellingStopsBetweenBlocksAndWaitsForCopiesInFlight) {
  TransferCase test(TwoTensors());
  test.gpu().HoldCopies();
  std::stop_source stop;
  bool cancelled = false;
  const auto result = test.Run("cuda:0", {.stop = stop.get_token()}, [&](const LoadProgress&) {
    if (std::exchange(cancelled, true)) return;
    stop.request_stop();
    EXPECT_GT(test.gpu().live_allocations(), 0) << "copies are in flight: their memory stays";
    test.gpu().ReleaseCopies();
  });
  EXPECT_EQ(ErrorReason(result.status()), Reason::kLoadCancelled);
  ExpectMemoryIsBack(test);
}

TEST(TransferFault, AnExceptionInTheThreadThatWaitsLeavesNoCopyBehind) {
  TransferCase test(TwoTensors());
  test.gpu().HoldCopies();
  std::thread release;
  const auto result = test.Run("cuda:0", {}, [&](const LoadProgress&) {
    release = std::thread([&] { test.gpu().ReleaseCopies(); });
    throw std::bad_alloc();
  });
  EXPECT_EQ(ErrorReason(result.status()), Reason::kMemoryExhausted);
  release.join();
  ExpectMemoryIsBack(test);
}

// Occupies threads of an executor while it lives.
class BusyThreads {
 public:
  BusyThreads(Executor& executor, int threads) {
    for (int i = 0; i < threads; ++i) {
      std::promise<void> begun;
      std::future<void> begins = begun.get_future();
      EXPECT_TRUE(executor.TrySubmit([begun = std::move(begun), released = released_]() mutable {
        begun.set_value();
        released.wait();
      }));
      begins.wait();
    }
  }
  ~BusyThreads() { release_.set_value(); }

 private:
  std::promise<void> release_;
  std::shared_future<void> released_ = release_.get_future().share();
};

TEST(TransferFault, CancellingEndsALoadThatNoThreadHasBegun) {
  TransferCase test(TwoTensors());
  BusyThreads busy(test.io(), 2);
  std::stop_source stop;
  const auto result = test.Run("cuda:0", {.stop = stop.get_token()}, [&](const LoadProgress&) { stop.request_stop(); });
  EXPECT_EQ(ErrorReason(result.status()), Reason::kLoadCancelled);
  ExpectMemoryIsBack(test);
}

TEST(TransferFault, ALoadThatIsDoneWaitsForNoWorkerThatHasNotBegun) {
  TransferCase test({{.name = "a", .dtype = DType::kU8, .shape = {100}}},
                    {.faults = FaultyReader::Faults{.cold_from = 0}});
  std::promise<void> end;
  BusyThreads one(test.io(), 1);
  std::optional<BusyThreads> other(std::in_place, test.io(), 1);
  // The load's only worker finds its block cold and starts a second one, which is queued behind somebody else's task.
  const auto result = test.Run("cuda:0", {}, [&](const LoadProgress&) {
    if (!other) return;
    ASSERT_TRUE(test.io().TrySubmit([&] { end.get_future().wait(); }));
    other.reset();
  });
  EXPECT_TRUE(result.ok()) << result.status();
  end.set_value();
}

TEST(TransferFault, TheDeadlineEndsALoad) {
  TransferCase test(TwoTensors());
  EXPECT_EQ(ErrorReason(test.Run("cuda:0", {.deadline = Deadline::After(-absl::Seconds(1))}).status()),
            Reason::kDeadlineExceeded);
  ExpectMemoryIsBack(test);
}

TEST(TransferFault, ARewrittenFileIsFoundAfterReading) {
  TransferCase test({{.name = "a", .dtype = DType::kU8, .shape = {100}}});
  test.gpu().HoldCopies();
  const auto result = test.Run("cuda:0", {}, [&](const LoadProgress&) {
    WriteFile(test.shard_path(), ReadFile(test.shard_path()) + "x");
    test.gpu().ReleaseCopies();
  });
  EXPECT_EQ(ErrorReason(result.status()), Reason::kCheckpointChanged);
}

}  // namespace
}  // namespace keyload
