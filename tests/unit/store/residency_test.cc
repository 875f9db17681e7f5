#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <latch>
#include <thread>

#include "server/base/error.h"
#include "tests/unit/store/residency_case.h"

namespace keyload {
namespace {

using testing::ElementsAre;
using State = Residency::State;

using ResidencyTest = ResidencyCase;

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
    ASSERT_TRUE(Allocate(residency, claim).ok());
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
    memory = (*Allocate(residency, first))[0].memory;
    EXPECT_EQ((*Allocate(residency, second))[0].memory, memory);
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
        EXPECT_TRUE(Allocate(residency, claim).ok());
        claim.Commit();
      });
    }
    threads.clear();
    EXPECT_EQ(residency.totals().resident_keys, 2);
    EXPECT_EQ(used(), 2 * kTensorBytes);
  }
  EXPECT_EQ(gpu_.allocations(), 20);
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

TEST_F(ResidencyTest, EvictedFromASegmentThatStaysItIsResidentAgainWithoutBeingWritten) {
  Residency residency = Make();
  Load(residency, {0, 1});
  const std::optional<Segment> pinned = residency.Pin(0);
  residency.Evict(Tensors{0});
  {
    const Residency::Claim claim = residency.Begin(Tensors{0});
    EXPECT_THAT(claim.tensors(), ElementsAre());
    EXPECT_FALSE(claim.awaits_others());
  }
  EXPECT_EQ(residency.Pin(0)->memory, pinned->memory);
  EXPECT_EQ(residency.totals().resident_keys, 2);
  EXPECT_EQ(residency.Evict(Tensors{0, 1}).bytes, 2 * kTensorBytes);
}

TEST_F(ResidencyTest, EvictedWithItsSegmentItIsReadAgainIntoOtherMemory) {
  Residency residency = Make();
  Load(residency, {0, 1});
  const std::optional<Segment> pinned = residency.Pin(0);
  residency.Evict(Tensors{0, 1});
  Load(residency, {1});
  EXPECT_THAT(residency.Begin(Tensors{0}).tensors(), ElementsAre(0));
  EXPECT_NE(residency.Pin(1)->memory, pinned->memory);
}

TEST_F(ResidencyTest, WhatSomebodyIsLoadingIsNotEvicted) {
  Residency residency = Make();
  Load(residency, {0});
  Residency::Claim claim = residency.Begin(Tensors{1});
  ASSERT_TRUE(Allocate(residency, claim).ok());
  const Residency::Evicted evicted = residency.Evict(Tensors{0, 1});
  EXPECT_EQ(evicted.tensors, 1);
  EXPECT_EQ(evicted.bytes, 0);  // the segment is being filled
  claim.Commit();
  EXPECT_THAT(residency.states(), ElementsAre(State::kLazy, State::kResident, State::kLazy, State::kLazy));
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
