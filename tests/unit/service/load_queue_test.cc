#include "server/service/load_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <latch>
#include <string>
#include <utility>

#include "server/base/error.h"
#include "tests/support/fake_device.h"
#include "tests/unit/service/loader_node.h"

namespace keyload {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::unique_ptr<Device>> TwoDevices() {
  std::vector<std::unique_ptr<Device>> devices;
  for (const char* name : {"cuda:0", "cuda:1"}) {
    devices.push_back(std::make_unique<FakeDevice>(FakeDevice::Options{.name = name, .capacity_bytes = 100}));
  }
  return devices;
}

std::shared_ptr<const LoadPlan> PlanOf(std::vector<std::string> devices, std::vector<uint64_t> bytes) {
  auto plan = std::make_shared<LoadPlan>();
  plan->devices = std::move(devices);
  plan->reserve_bytes = std::move(bytes);
  return plan;
}

// A load of a test: somebody asked for it, and may leave.
struct TestLoad {
  explicit TestLoad(const SharedLoad::Waiter& waiter = {}) {
    SharedLoad::Waiter caller = waiter;
    caller.observer = observer;
    id = load->Begin(caller);
  }
  std::shared_ptr<RecordingObserver> observer = std::make_shared<RecordingObserver>();
  std::shared_ptr<SharedLoad> load = std::make_shared<SharedLoad>(LoadIdentity{.load = "load"});
  SharedLoad::WaiterId id = 0;
};

class LoadQueueTest : public testing::Test {
 protected:
  explicit LoadQueueTest(size_t limit = 8)
      : queue_({.threads = 1, .limit = limit, .devices = &devices_, .progress_interval = absl::ZeroDuration()}) {}
  ~LoadQueueTest() override { Release(); }

  // Keeps the one thread busy until Release.
  void Hold() {
    std::latch held(1);
    ASSERT_TRUE(queue_
                    .Submit({.context = {},
                             .load = nullptr,
                             .run =
                                 [&](auto) {
                                   held.count_down();
                                   release_.wait();
                                 }})
                    .ok());
    held.wait();
  }
  void Release() {
    if (!std::exchange(released_, true)) release_.count_down();
  }
  // Queues the load; its turn is noted as `name`, or as `name` and the reason why there is none.
  absl::Status Submit(const TestLoad& load, const std::string& name) {
    return queue_.Submit(
        {.context = load.load->context(), .load = load.load, .run = [this, name](auto turn) { Note(name, turn); }});
  }
  absl::Status AwaitMemory(const TestLoad& load, const std::string& name, uint64_t number,
                           std::shared_ptr<const LoadPlan> plan) {
    return queue_.AwaitMemory(
        {.context = load.load->context(), .load = load.load, .run = [this, name](auto turn) { Note(name, turn); }},
        number, std::move(plan), MakeError(Reason::kDeviceOutOfMemory, "no memory"));
  }
  MemoryReservation Take(const std::string& device, uint64_t bytes) {
    return *devices_.Find(device)->account().Reserve(bytes);
  }
  // Blocks until so many turns have come; returns them.
  std::vector<std::string> WaitForTurns(size_t count) {
    MutexLock lock(mutex_);
    while (turns_.size() < count) changed_.Wait(mutex_);
    return turns_;
  }
  void WaitForPlace(const TestLoad& load, uint32_t place) {
    while (true) {
      const LoadStatus status = load.load->status();
      if (status.progress && status.progress->queue_position == place) return;
      std::this_thread::yield();
    }
  }
  static std::string PhaseOf(const TestLoad& load) { return load.load->status().progress->phase; }

  DeviceSet devices_{TwoDevices()};
  Mutex mutex_;
  CondVar changed_;
  std::vector<std::string> turns_ ABSL_GUARDED_BY(mutex_);
  std::string last_message_ ABSL_GUARDED_BY(mutex_);
  std::vector<MemoryReservation> memory_ ABSL_GUARDED_BY(mutex_);  // of all turns
  std::latch release_{1};
  bool released_ = false;
  LoadQueue queue_;

 private:
  void Note(const std::string& name, LoadQueue::Turn& turn) {
    MutexLock lock(mutex_);
    turns_.push_back(turn.status.ok() ? name : name + " " + std::string(ReasonName(ErrorReason(turn.status))));
    last_message_ = std::string(turn.status.message());
    for (MemoryReservation& memory : turn.memory) memory_.push_back(std::move(memory));
    changed_.NotifyAll();
  }
};

TEST_F(LoadQueueTest, LargerPrioritiesGoFirstAndEqualOnesInTheirOrder) {
  const TestLoad low({.priority = -1}), first, second, urgent({.priority = 5});
  Hold();
  ASSERT_TRUE(Submit(low, "low").ok());
  ASSERT_TRUE(Submit(first, "first").ok());
  ASSERT_TRUE(Submit(second, "second").ok());
  ASSERT_TRUE(Submit(urgent, "urgent").ok());
  Release();
  EXPECT_THAT(WaitForTurns(4), ElementsAre("urgent", "first", "second", "low"));
}

TEST_F(LoadQueueTest, PlacesAreToldAndFollow) {
  const TestLoad first, second, urgent({.priority = 1});
  Hold();
  ASSERT_TRUE(Submit(first, "first").ok());
  ASSERT_TRUE(Submit(second, "second").ok());
  WaitForPlace(first, 1);
  WaitForPlace(second, 2);
  ASSERT_TRUE(Submit(urgent, "urgent").ok());
  WaitForPlace(second, 3);
  EXPECT_EQ(PhaseOf(second), "queue");
  first.load->Leave(first.id);
  WaitForPlace(second, 2);
  WaitForTurns(1);
  Release();
  EXPECT_THAT(WaitForTurns(3), ElementsAre("first LOAD_CANCELLED", "urgent", "second"));
}

TEST_F(LoadQueueTest, AJoinWithALargerPriorityMovesTheLoad) {
  const TestLoad first, second;
  Hold();
  ASSERT_TRUE(Submit(first, "first").ok());
  ASSERT_TRUE(Submit(second, "second").ok());
  ASSERT_TRUE(second.load->Join({.observer = std::make_shared<RecordingObserver>(), .priority = 1}).ok());
  queue_.Changed();
  WaitForPlace(second, 1);
  Release();
  EXPECT_THAT(WaitForTurns(2), ElementsAre("second", "first"));
}

TEST_F(LoadQueueTest, WhatIsCancelledOrTooLateLeavesAtOnce) {
  const TestLoad cancelled;
  const TestLoad late({.deadline = Deadline::After(absl::Milliseconds(20))});
  Hold();
  ASSERT_TRUE(Submit(cancelled, "cancelled").ok());
  ASSERT_TRUE(Submit(late, "late").ok());
  cancelled.load->Stop();
  EXPECT_THAT(WaitForTurns(2), testing::UnorderedElementsAre("cancelled LOAD_CANCELLED", "late DEADLINE_EXCEEDED"));
  EXPECT_EQ(queue_.queued(), 0);
}

class ShortLoadQueue : public LoadQueueTest {
 protected:
  ShortLoadQueue() : LoadQueueTest(2) {}
};

TEST_F(ShortLoadQueue, WhatWaitsIsBoundedAndAPlaceThatIsLeftIsFree) {
  const TestLoad first, second, third;
  Hold();
  ASSERT_TRUE(Submit(first, "first").ok());
  ASSERT_TRUE(Submit(second, "second").ok());
  const absl::Status full = Submit(third, "third");
  EXPECT_EQ(ErrorReason(full), Reason::kLoadQueueFull);
  EXPECT_EQ(ErrorDetails(full).at("retry_delay_seconds"), "1");
  first.load->Stop();
  WaitForTurns(1);
  EXPECT_TRUE(Submit(third, "third").ok());
}

TEST_F(ShortLoadQueue, WhatWaitsForMemoryCounts) {
  const TestLoad first, second, third, fourth;
  const MemoryReservation taken = Take("cuda:0", 100);
  const TestLoad waiting({.memory_wait = absl::InfiniteDuration()});
  ASSERT_TRUE(AwaitMemory(waiting, "waiting", 1, PlanOf({"cuda:0"}, {1})).ok());
  Hold();
  EXPECT_EQ(queue_.waiting_for_memory(), 1);
  ASSERT_TRUE(Submit(first, "first").ok());
  EXPECT_EQ(ErrorReason(Submit(second, "second")), Reason::kLoadQueueFull);
  EXPECT_EQ(ErrorReason(AwaitMemory(waiting, "waiting", 2, PlanOf({"cuda:0"}, {1}))), Reason::kLoadQueueFull);
}

TEST_F(LoadQueueTest, MemoryIsGivenToTheLoadThatWaitsForItWithoutAThread) {
  const TestLoad waiting({.memory_wait = absl::InfiniteDuration()});
  {
    const MemoryReservation taken = Take("cuda:0", 60);
    ASSERT_TRUE(AwaitMemory(waiting, "waiting", 1, PlanOf({"cuda:0"}, {50})).ok());
    WaitForPlace(waiting, 1);
    EXPECT_EQ(PhaseOf(waiting), "memory");
    ASSERT_TRUE(Submit(TestLoad(), "passing").ok());
    EXPECT_THAT(WaitForTurns(1), ElementsAre("passing"));
  }
  EXPECT_THAT(WaitForTurns(2), ElementsAre("passing", "waiting"));
  EXPECT_EQ(devices_.Find("cuda:0")->account().state().reserved, 50);
}

TEST_F(LoadQueueTest, AWaitForMemoryEnds) {
  const MemoryReservation taken = Take("cuda:0", 100);
  const TestLoad patient({.memory_wait = absl::InfiniteDuration()});
  const TestLoad late({.deadline = Deadline::After(absl::Milliseconds(20)), .memory_wait = absl::InfiniteDuration()});
  const TestLoad quick({.memory_wait = absl::Milliseconds(20)});
  ASSERT_TRUE(AwaitMemory(patient, "patient", 1, PlanOf({"cuda:0"}, {1})).ok());
  ASSERT_TRUE(AwaitMemory(late, "late", 2, PlanOf({"cuda:0"}, {1})).ok());
  WaitForTurns(1);
  ASSERT_TRUE(AwaitMemory(quick, "quick", 3, PlanOf({"cuda:0"}, {1})).ok());
  WaitForTurns(2);
  {
    MutexLock lock(mutex_);
    EXPECT_THAT(last_message_, HasSubstr("waited 20ms for memory"));
  }
  patient.load->Stop();
  EXPECT_THAT(WaitForTurns(3),
              ElementsAre("late DEADLINE_EXCEEDED", "quick DEVICE_OUT_OF_MEMORY", "patient LOAD_CANCELLED"));
  EXPECT_EQ(devices_.Find("cuda:0")->account().state().reserved, 100);
}

TEST_F(LoadQueueTest, NobodyOvertakesWhoWaitsForTheSameDevice) {
  const TestLoad large({.memory_wait = absl::InfiniteDuration()}), small({.memory_wait = absl::InfiniteDuration()});
  const TestLoad elsewhere({.memory_wait = absl::InfiniteDuration()});
  MemoryReservation a = Take("cuda:0", 40);
  MemoryReservation b = Take("cuda:0", 40);
  MemoryReservation c = Take("cuda:1", 40);
  ASSERT_TRUE(AwaitMemory(large, "large", 1, PlanOf({"cuda:0"}, {90})).ok());
  ASSERT_TRUE(AwaitMemory(small, "small", 2, PlanOf({"cuda:0"}, {10})).ok());
  ASSERT_TRUE(AwaitMemory(elsewhere, "elsewhere", 3, PlanOf({"cuda:1"}, {90})).ok());
  EXPECT_EQ(ErrorReason(queue_.Reserve(*PlanOf({"cuda:0"}, {1}), 4, *small.load).status()), Reason::kDeviceOutOfMemory)
      << "there is room, but not for those who come later";
  a = {};
  c = {};
  EXPECT_THAT(WaitForTurns(1), ElementsAre("elsewhere"));
  b = {};
  EXPECT_THAT(WaitForTurns(3), ElementsAre("elsewhere", "large", "small"));
}

TEST_F(LoadQueueTest, APriorityGoesFirstForMemoryToo) {
  const TestLoad plain({.memory_wait = absl::InfiniteDuration()});
  const TestLoad urgent({.priority = 1, .memory_wait = absl::InfiniteDuration()});
  {
    const MemoryReservation taken = Take("cuda:0", 100);
    ASSERT_TRUE(AwaitMemory(plain, "plain", 1, PlanOf({"cuda:0"}, {60})).ok());
    ASSERT_TRUE(AwaitMemory(urgent, "urgent", 2, PlanOf({"cuda:0"}, {60})).ok());
    WaitForPlace(urgent, 1);
    WaitForPlace(plain, 2);
  }
  EXPECT_THAT(WaitForTurns(1), ElementsAre("urgent"));
  {
    MutexLock lock(mutex_);
    memory_.clear();
  }
  EXPECT_THAT(WaitForTurns(2), ElementsAre("urgent", "plain"));
}

TEST(RecentDurationsTest, EstimatesWhenWhatWaitsWillHaveBegun) {
  RecentDurations durations;
  EXPECT_EQ(durations.TimeFor(100, 1), RecentDurations::kLeastDelay) << "nothing is known";
  durations.Add(absl::Seconds(2));
  durations.Add(absl::Seconds(5));
  EXPECT_EQ(durations.TimeFor(3, 2), absl::Seconds(6)) << "5.25 s, rounded up";
  EXPECT_EQ(durations.TimeFor(0, 2), RecentDurations::kLeastDelay);
  EXPECT_EQ(durations.TimeFor(1'000'000, 2), RecentDurations::kMostDelay);
  for (size_t i = 0; i < RecentDurations::kKept; ++i) durations.Add(absl::Seconds(1));
  EXPECT_EQ(durations.TimeFor(4, 1), absl::Seconds(4)) << "only the last ones count";
}

}  // namespace
}  // namespace keyload
