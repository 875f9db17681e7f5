#include "server/io/storage_threads.h"

#include <gtest/gtest.h>

#include <latch>
#include <memory>
#include <new>
#include <stop_token>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "server/base/error.h"
#include "server/base/executor.h"

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
  // Runs one under a context that ends at once: its thread is left behind.
  absl::Status Begin(const char* path = kPath) {
    return threads_.Run(path, {.deadline = absl::Now() + absl::Milliseconds(1)}, [gate = gate_] {
      gate->wait();
      return absl::OkStatus();
    });
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
  EXPECT_TRUE(threads.under_way().empty());
}

TEST(StorageThreads, DeadlineAndCancelEndTheCallThoughTheStepHangs) {
  Hang hang;
  EXPECT_EQ(ErrorReason(hang.Begin()), Reason::kDeadlineExceeded);
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(ErrorReason(hang.threads().Run(kPath, {.stop = stop.get_token()}, [] { return absl::OkStatus(); })),
            Reason::kLoadCancelled);
  const std::vector<StuckMount> stuck = hang.threads().stuck();
  ASSERT_EQ(stuck.size(), 1u);
  EXPECT_EQ(stuck[0].mount, "/proc");
  EXPECT_EQ(stuck[0].operations, 1u);
}

TEST(StorageThreads, StuckMountRefusesWhatIsBeyondItsShareAndOthersGoOn) {
  Hang hang;
  for (int i = 0; i < 2; ++i) EXPECT_EQ(ErrorReason(hang.Begin()), Reason::kDeadlineExceeded);
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

TEST(StorageThreads, MountOfAPathIsFoundWithoutTouchingItLonger) {
  StorageThreads threads({});
  EXPECT_EQ(threads.MountOf("/proc/self/stat", absl::Seconds(30)), "/proc");
}

}  // namespace
}  // namespace keyload
