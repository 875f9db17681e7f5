#include "server/store/residency.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <latch>
#include <thread>

#include "server/base/error.h"
#include "tests/support/fake_device.h"

namespace keyload {
namespace {

using testing::ElementsAre;
using State = Residency::State;
using Tensors = std::vector<uint32_t>;

constexpr uint64_t kTensorBytes = 512;

// Tensors 0 and 1 in segment 0, 2 in segment 1, both on a GPU; 3 mapped, in segment 2.
std::shared_ptr<LoadPlan> MakePlan() {
  auto plan = std::make_shared<LoadPlan>();
  plan->devices = {"cuda:0", "cpu"};
  plan->segments = {{.device = 0, .bytes = 2 * kTensorBytes},
                    {.device = 0, .bytes = kTensorBytes},
                    {.kind = SegmentKind::kFile, .device = 1, .bytes = 4096}};
  for (uint32_t i = 0; i < 4; ++i) {
    plan->tensors.push_back({.key = i,
                             .segment = i == 3 ? 2 : i / 2,
                             .segment_offset = i == 1 ? kTensorBytes : 0,
                             .bytes = kTensorBytes,
                             .file_offset = i * kTensorBytes});
  }
  return plan;
}

class ResidencyTest : public testing::Test {
 protected:
  Residency Make(State state = State::kLazy, std::vector<MemoryReservation> reserved = {}) {
    std::vector<Segment> segments = {{.device = &gpu_}, {.device = &gpu_}, {.kind = SegmentKind::kFile}};
    return Residency(
        {.plan = MakePlan(), .segments = std::move(segments), .state = state, .reserved = std::move(reserved)});
  }
  static void Load(Residency& residency, const Tensors& tensors) {
    Residency::Claim claim = residency.Begin(tensors);
    ASSERT_TRUE(claim.Allocate().ok());
    claim.Commit();
  }
  // What RESERVE_NOW takes for the plan.
  std::vector<MemoryReservation> ReserveAll() {
    std::vector<MemoryReservation> kept(2);
    kept[0] = *gpu_.account().Reserve(3 * kTensorBytes);
    return kept;
  }
  uint64_t used() { return gpu_.account().state().used; }
  uint64_t reserved() { return gpu_.account().state().reserved; }

  FakeDevice gpu_{{.capacity_bytes = 4 * kTensorBytes, .fail_allocation = 0}};
};

TEST_F(ResidencyTest, AClaimTakesWhatIsLazyAndLeavesTheRestToOthers) {
  Residency residency = Make();
  Load(residency, {0});
  const Residency::Claim first = residency.Begin(Tensors{2, 0, 1});
  EXPECT_THAT(first.tensors(), ElementsAre(1, 2));
  EXPECT_FALSE(first.awaits_others());
  const Residency::Claim second = residency.Begin(Tensors{0, 1, 3});
  EXPECT_THAT(second.tensors(), ElementsAre(3));
  EXPECT_TRUE(second.awaits_others());
}

TEST_F(ResidencyTest, WhatIsCommittedIsResidentAndCounted) {
  Residency residency = Make();
  Load(residency, {0, 2, 3});
  EXPECT_THAT(residency.states(), ElementsAre(State::kResident, State::kLazy, State::kResident, State::kResident));
  const Residency::Totals totals = residency.totals();
  EXPECT_EQ(totals.resident_keys, 3);
  EXPECT_EQ(totals.lazy_keys, 1);
  EXPECT_EQ(totals.allocated_bytes, 3 * kTensorBytes);
  EXPECT_EQ(totals.devices[0].tensors, 2);
  EXPECT_EQ(totals.devices[0].tensor_bytes, 2 * kTensorBytes);
  EXPECT_EQ(totals.devices[0].memory_bytes, 3 * kTensorBytes);
  EXPECT_EQ(totals.devices[1].memory_bytes, 0);
  EXPECT_EQ(used(), 3 * kTensorBytes);
}

TEST_F(ResidencyTest, AClaimThatEndsWithoutCommitLeavesNothing) {
  Residency residency = Make();
  {
    Residency::Claim claim = residency.Begin(Tensors{0, 2, 3});
    ASSERT_TRUE(claim.Allocate().ok());
    EXPECT_EQ(claim.allocated_bytes(0), 3 * kTensorBytes);
  }
  EXPECT_THAT(residency.states(), testing::Each(State::kLazy));
  EXPECT_EQ(used(), 0);
  EXPECT_EQ(residency.totals().devices[0].memory_bytes, 0);
  EXPECT_EQ(residency.totals().allocated_bytes, 0);
}

TEST_F(ResidencyTest, TwoClaimsInOneSegmentShareItsMemory) {
  Residency residency = Make();
  Residency::Claim second = residency.Begin(Tensors{1});
  std::shared_ptr<DeviceMemory> memory;
  {
    Residency::Claim first = residency.Begin(Tensors{0});
    memory = (*first.Allocate())[0].memory;
    EXPECT_EQ((*second.Allocate())[0].memory, memory);
    EXPECT_EQ(second.allocated_bytes(0), 0);
  }
  EXPECT_EQ(gpu_.allocations(), 1);
  second.Commit();
  EXPECT_EQ(residency.Pin(1)->memory, memory);
}

TEST_F(ResidencyTest, ManyThreadsAllocateASegmentOnce) {
  constexpr int kThreads = 16;
  for (int round = 0; round < 20; ++round) {
    Residency residency = Make();
    std::latch go(kThreads);
    std::vector<std::jthread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&, i] {
        go.arrive_and_wait();
        Residency::Claim claim = residency.Begin(Tensors{static_cast<uint32_t>(i % 2)});
        EXPECT_TRUE(claim.Allocate().ok());
        claim.Commit();
      });
    }
    threads.clear();
    EXPECT_EQ(residency.totals().resident_keys, 2);
    EXPECT_EQ(used(), 2 * kTensorBytes);
  }
  EXPECT_EQ(gpu_.allocations(), 20);
}

TEST_F(ResidencyTest, WithoutMemoryEverythingStaysAsItWas) {
  Residency residency = Make();
  Load(residency, {2});
  const MemoryReservation other = *gpu_.account().Reserve(2 * kTensorBytes);
  {
    Residency::Claim claim = residency.Begin(Tensors{0, 1, 3});
    EXPECT_EQ(ErrorReason(claim.Allocate().status()), Reason::kDeviceOutOfMemory);
  }
  EXPECT_THAT(residency.states(), ElementsAre(State::kLazy, State::kLazy, State::kResident, State::kLazy));
  EXPECT_EQ(used(), kTensorBytes);
  EXPECT_EQ(reserved(), 2 * kTensorBytes);
  EXPECT_EQ(residency.totals().devices[0].memory_bytes, kTensorBytes);
}

TEST_F(ResidencyTest, ASegmentIsFreedWithItsLastTensor) {
  Residency residency = Make();
  Load(residency, {0, 1});
  Residency::Evicted evicted = residency.Evict(Tensors{0, 2, 3});
  EXPECT_EQ(evicted.tensors, 1);
  EXPECT_EQ(evicted.bytes, 0);
  EXPECT_EQ(used(), 2 * kTensorBytes);
  evicted = residency.Evict(Tensors{0, 1});
  EXPECT_EQ(evicted.tensors, 1);
  EXPECT_EQ(evicted.bytes, 2 * kTensorBytes);
  EXPECT_EQ(used(), 0);
  EXPECT_EQ(residency.totals().lazy_keys, 4);
  EXPECT_EQ(residency.totals().devices[0].tensor_bytes, 0);
}

TEST_F(ResidencyTest, WhoReadsKeepsTheMemoryOfAnEvictedTensor) {
  Residency residency = Make();
  Load(residency, {2});
  std::optional<Segment> pinned = residency.Pin(2);
  residency.Evict(Tensors{2});
  EXPECT_FALSE(residency.Pin(2).has_value());
  EXPECT_EQ(used(), kTensorBytes);
  std::byte byte;
  EXPECT_TRUE(gpu_.Read(*pinned->memory, 0, {&byte, 1}).ok());
  pinned.reset();
  EXPECT_EQ(used(), 0);
}

TEST_F(ResidencyTest, WhatSomebodyIsLoadingIsNotEvicted) {
  Residency residency = Make();
  Load(residency, {0});
  Residency::Claim claim = residency.Begin(Tensors{1});
  ASSERT_TRUE(claim.Allocate().ok());
  const Residency::Evicted evicted = residency.Evict(Tensors{0, 1});
  EXPECT_EQ(evicted.tensors, 1);
  EXPECT_EQ(evicted.bytes, 0);  // the segment is being filled
  claim.Commit();
  EXPECT_THAT(residency.states(), ElementsAre(State::kLazy, State::kResident, State::kLazy, State::kLazy));
}

TEST_F(ResidencyTest, ReservedMemoryIsTakenFirstAndReleasedAtTheEnd) {
  {
    Residency residency = Make(State::kLazy, ReserveAll());
    EXPECT_EQ(residency.totals().devices[0].memory_bytes, 3 * kTensorBytes);
    const MemoryReservation other = *gpu_.account().Reserve(kTensorBytes);  // the device is full now
    Load(residency, {0});
    EXPECT_EQ(used(), 2 * kTensorBytes);
    EXPECT_EQ(reserved(), 2 * kTensorBytes);
    EXPECT_EQ(residency.totals().devices[0].memory_bytes, 3 * kTensorBytes);
  }
  EXPECT_EQ(used(), 0);
  EXPECT_EQ(reserved(), 0);
}

TEST_F(ResidencyTest, EvictedMemoryIsNoLongerReserved) {
  Residency residency = Make(State::kLazy, ReserveAll());
  Load(residency, {2});
  residency.Evict(Tensors{2});
  EXPECT_EQ(reserved(), 2 * kTensorBytes);
  EXPECT_EQ(residency.totals().devices[0].memory_bytes, 2 * kTensorBytes);
  const MemoryReservation other = *gpu_.account().Reserve(2 * kTensorBytes);  // the device is full now
  {
    Residency::Claim claim = residency.Begin(Tensors{2});
    EXPECT_EQ(ErrorReason(claim.Allocate().status()), Reason::kDeviceOutOfMemory);  // the kept bytes are another's
  }
  Load(residency, {0});
  EXPECT_EQ(used(), 2 * kTensorBytes);
  EXPECT_EQ(residency.totals().devices[0].memory_bytes, 2 * kTensorBytes);
}

TEST_F(ResidencyTest, WhatAClaimGivesUpIsKeptAgain) {
  Residency residency = Make(State::kLazy, ReserveAll());
  {
    Residency::Claim claim = residency.Begin(Tensors{0, 2});
    ASSERT_TRUE(claim.Allocate().ok());
    EXPECT_EQ(used(), 3 * kTensorBytes);
  }
  EXPECT_EQ(used(), 0);
  EXPECT_EQ(reserved(), 3 * kTensorBytes);
  EXPECT_EQ(residency.totals().devices[0].memory_bytes, 3 * kTensorBytes);
  const MemoryReservation other = *gpu_.account().Reserve(kTensorBytes);  // the device is full now
  Load(residency, {0, 1, 2});
}

TEST_F(ResidencyTest, ASegmentThatTwoClaimsGiveUpIsKeptOnce) {
  Residency residency = Make(State::kLazy, ReserveAll());
  {
    Residency::Claim first = residency.Begin(Tensors{0});
    Residency::Claim second = residency.Begin(Tensors{1});
    ASSERT_TRUE(first.Allocate().ok());
    ASSERT_TRUE(second.Allocate().ok());
  }
  EXPECT_EQ(used(), 0);
  EXPECT_EQ(reserved(), 3 * kTensorBytes);
}

TEST_F(ResidencyTest, WhatIsNotFreeAnyMoreIsNotKeptAgain) {
  Residency residency = Make(State::kLazy, ReserveAll());
  std::shared_ptr<DeviceMemory> pinned;  // of segment 1
  const MemoryReservation other = *gpu_.account().Reserve(kTensorBytes);
  {
    Residency::Claim claim = residency.Begin(Tensors{0, 2});
    pinned = (*claim.Allocate())[1].memory;
  }
  EXPECT_EQ(used(), kTensorBytes);
  EXPECT_EQ(reserved(), 3 * kTensorBytes);  // the other's, and segment 0
  EXPECT_EQ(residency.totals().devices[0].memory_bytes, 2 * kTensorBytes);
  pinned.reset();
  Load(residency, {2});
  Load(residency, {0});
  EXPECT_EQ(residency.totals().devices[0].memory_bytes, 3 * kTensorBytes);
  residency.Evict(Tensors{0, 2});
  EXPECT_EQ(used(), 0);
  EXPECT_EQ(reserved(), kTensorBytes);
  EXPECT_EQ(residency.totals().devices[0].memory_bytes, 0);
}

TEST_F(ResidencyTest, AWiderModelKeepsWhatWasReservedForItsPart) {
  Residency residency = Make();
  auto wider = std::make_shared<LoadPlan>(*MakePlan());
  auto part = std::make_shared<LoadPlan>();
  part->devices = {"cpu", "cuda:0"};
  part->segments = {{.device = 1, .bytes = kTensorBytes}};
  part->tensors = {{.key = 4, .segment = 0, .bytes = kTensorBytes}};
  wider->segments.push_back({.device = 0, .bytes = kTensorBytes});
  wider->tensors.push_back({.key = 4, .segment = 3, .bytes = kTensorBytes});
  std::vector<MemoryReservation> kept(2);
  kept[1] = *gpu_.account().Reserve(kTensorBytes);
  residency.Append(wider, {.plan = part,
                           .segments = {{.device = &gpu_}},
                           .state = State::kLazy,
                           .dropped = {},
                           .reserved = std::move(kept)});
  EXPECT_EQ(residency.totals().devices[0].memory_bytes, kTensorBytes);
  const MemoryReservation other = *gpu_.account().Reserve(3 * kTensorBytes);  // the device is full now
  Load(residency, {4});
  EXPECT_EQ(used(), kTensorBytes);
  EXPECT_EQ(residency.totals().devices[0].memory_bytes, kTensorBytes);
}

TEST(ResidencyAllocation, ARefusalGivesTheReservationBack) {
  FakeDevice gpu({.capacity_bytes = 4 * kTensorBytes, .fail_allocation = 2});
  std::vector<MemoryReservation> kept(2);
  kept[0] = *gpu.account().Reserve(3 * kTensorBytes);
  Residency residency({.plan = MakePlan(),
                       .segments = {{.device = &gpu}, {.device = &gpu}, {.kind = SegmentKind::kFile}},
                       .state = State::kLazy,
                       .reserved = std::move(kept)});
  {
    Residency::Claim claim = residency.Begin(Tensors{0, 2});
    EXPECT_EQ(ErrorReason(claim.Allocate().status()), Reason::kDeviceOutOfMemory);
  }
  EXPECT_EQ(gpu.account().state().used, 0);
  EXPECT_EQ(gpu.account().state().reserved, 3 * kTensorBytes);
  EXPECT_EQ(residency.totals().devices[0].memory_bytes, 3 * kTensorBytes);
}

TEST_F(ResidencyTest, ADroppedCopyCountsWithItsProvider) {
  Residency residency({.plan = MakePlan(),
                       .segments = {{.device = &gpu_}, {.device = &gpu_}, {.kind = SegmentKind::kFile}},
                       .dropped = {{.tensor = 2, .provider = 0}}});
  EXPECT_EQ(residency.totals().resident_keys, 4);
  EXPECT_EQ(residency.totals().devices[0].tensors, 2);
  residency.Evict(Tensors{0});
  EXPECT_EQ(residency.totals().resident_keys, 2);
  EXPECT_EQ(residency.totals().lazy_keys, 2);
  EXPECT_THAT(residency.Begin(Tensors{0, 2}).tensors(), ElementsAre(0));
}

TEST_F(ResidencyTest, WaitingEndsWhenTheOtherGivesUp) {
  Residency residency = Make();
  std::latch waiting(1);
  std::jthread waiter;
  {
    const Residency::Claim claim = residency.Begin(Tensors{0});
    waiter = std::jthread([&] {
      waiting.count_down();
      EXPECT_TRUE(residency.WaitForOthers(Tensors{0, 1}, {}).ok());
      EXPECT_THAT(residency.Begin(Tensors{0, 1}).tensors(), ElementsAre(0, 1));
    });
    waiting.wait();
  }
  waiter.join();
}

TEST_F(ResidencyTest, ACancelledWaitEnds) {
  Residency residency = Make();
  const Residency::Claim claim = residency.Begin(Tensors{0});
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(ErrorReason(residency.WaitForOthers(Tensors{0}, {.stop = stop.get_token()})), Reason::kLoadCancelled);
  EXPECT_TRUE(residency.WaitForOthers(Tensors{1}, {.stop = stop.get_token()}).ok());
}

}  // namespace
}  // namespace keyload
