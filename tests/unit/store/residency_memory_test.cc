// What the segments of a residency are made of: reserved, allocated, zeroed and given back.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <stop_token>

#include "server/base/error.h"
#include "tests/unit/store/residency_case.h"

namespace keyload {
namespace {

using testing::ElementsAre;
using State = Residency::State;

using ResidencyMemory = ResidencyCase;

TEST_F(ResidencyMemory, WithoutMemoryEverythingStaysAsItWas) {
  Residency residency = Make();
  Load(residency, {2});
  const MemoryReservation other = *gpu_.account().Reserve(2 * kTensorBytes);
  {
    Residency::Claim claim = residency.Begin(Tensors{0, 1, 3});
    EXPECT_EQ(ErrorReason(Allocate(residency, claim).status()), Reason::kDeviceOutOfMemory);
  }
  EXPECT_THAT(residency.states(), ElementsAre(State::kLazy, State::kLazy, State::kResident, State::kLazy));
  EXPECT_EQ(used(), kTensorBytes);
  EXPECT_EQ(reserved(), 2 * kTensorBytes);
  EXPECT_EQ(residency.totals().devices[0].memory_bytes, kTensorBytes);
}

TEST_F(ResidencyMemory, ReservedMemoryIsTakenFirstAndReleasedAtTheEnd) {
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

TEST_F(ResidencyMemory, EvictedMemoryIsNoLongerReserved) {
  Residency residency = Make(State::kLazy, ReserveAll());
  Load(residency, {2});
  residency.Evict(Tensors{2});
  EXPECT_EQ(reserved(), 2 * kTensorBytes);
  EXPECT_EQ(residency.totals().devices[0].memory_bytes, 2 * kTensorBytes);
  const MemoryReservation other = *gpu_.account().Reserve(2 * kTensorBytes);  // the device is full now
  {
    Residency::Claim claim = residency.Begin(Tensors{2});
    EXPECT_EQ(ErrorReason(Allocate(residency, claim).status()),
              Reason::kDeviceOutOfMemory);  // the kept bytes are another's
  }
  Load(residency, {0});
  EXPECT_EQ(used(), 2 * kTensorBytes);
  EXPECT_EQ(residency.totals().devices[0].memory_bytes, 2 * kTensorBytes);
}

TEST_F(ResidencyMemory, WhatAClaimGivesUpIsKeptAgain) {
  Residency residency = Make(State::kLazy, ReserveAll());
  {
    Residency::Claim claim = residency.Begin(Tensors{0, 2});
    ASSERT_TRUE(Allocate(residency, claim).ok());
    EXPECT_EQ(used(), 3 * kTensorBytes);
  }
  EXPECT_EQ(used(), 0);
  EXPECT_EQ(reserved(), 3 * kTensorBytes);
  EXPECT_EQ(residency.totals().devices[0].memory_bytes, 3 * kTensorBytes);
  const MemoryReservation other = *gpu_.account().Reserve(kTensorBytes);  // the device is full now
  Load(residency, {0, 1, 2});
}

TEST_F(ResidencyMemory, ASegmentThatTwoClaimsGiveUpIsKeptOnce) {
  Residency residency = Make(State::kLazy, ReserveAll());
  {
    Residency::Claim first = residency.Begin(Tensors{0});
    Residency::Claim second = residency.Begin(Tensors{1});
    ASSERT_TRUE(Allocate(residency, first).ok());
    ASSERT_TRUE(Allocate(residency, second).ok());
  }
  EXPECT_EQ(used(), 0);
  EXPECT_EQ(reserved(), 3 * kTensorBytes);
}

TEST_F(ResidencyMemory, WhatIsNotFreeAnyMoreIsNotKeptAgain) {
  Residency residency = Make(State::kLazy, ReserveAll());
  std::shared_ptr<DeviceMemory> pinned;  // of segment 1
  const MemoryReservation other = *gpu_.account().Reserve(kTensorBytes);
  {
    Residency::Claim claim = residency.Begin(Tensors{0, 2});
    pinned = (*Allocate(residency, claim))[1].memory;
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

// MakePlan and one more tensor behind it, whose key is 4, in a segment of its own.
std::shared_ptr<LoadPlan> MakeWiderPlan() {
  std::shared_ptr<LoadPlan> wider = MakePlan();
  wider->segments.push_back({.device = 0, .bytes = kTensorBytes});
  wider->tensors.push_back({.key = 4, .segment = 3, .bytes = kTensorBytes});
  return wider;
}

// That tensor alone, and what is reserved for it.
Residency::Content LazyPart(FakeDevice& gpu) {
  auto part = std::make_shared<LoadPlan>();
  part->devices = {"cpu", "cuda:0"};
  part->segments = {{.device = 1, .bytes = kTensorBytes}};
  part->tensors = {{.key = 4, .segment = 0, .bytes = kTensorBytes}};
  std::vector<MemoryReservation> kept(2);
  kept[1] = *gpu.account().Reserve(kTensorBytes);
  return {
      .plan = part, .segments = {{.device = &gpu}}, .state = State::kLazy, .dropped = {}, .reserved = std::move(kept)};
}

TEST_F(ResidencyMemory, AWiderModelKeepsWhatWasReservedForItsPart) {
  Residency residency = Make();
  residency.Append(MakeWiderPlan(), LazyPart(gpu_));
  EXPECT_EQ(residency.totals().devices[0].memory_bytes, kTensorBytes);
  const MemoryReservation other = *gpu_.account().Reserve(3 * kTensorBytes);  // the device is full now
  Load(residency, {4});
  EXPECT_EQ(used(), kTensorBytes);
  EXPECT_EQ(residency.totals().devices[0].memory_bytes, kTensorBytes);
}

TEST_F(ResidencyMemory, AModelThatIsCutBackIsAsItWas) {
  Residency residency = Make();
  Load(residency, {0});
  const std::shared_ptr<const LoadPlan> narrow = residency.plan();
  residency.Append(MakeWiderPlan(), LazyPart(gpu_));
  residency.CutBack(narrow);
  EXPECT_EQ(residency.plan(), narrow);
  EXPECT_EQ(residency.states().size(), 4u);
  EXPECT_EQ(residency.totals().lazy_keys, 3u);
  EXPECT_EQ(residency.totals().devices[0].memory_bytes, 2 * kTensorBytes);
  EXPECT_EQ(reserved(), 0u);
}

TEST_F(ResidencyMemory, AModelThatIsCutBackCanBeMadeWiderAgain) {
  Residency residency = Make();
  const std::shared_ptr<const LoadPlan> narrow = residency.plan();
  Residency::Content resident = LazyPart(gpu_);
  resident.segments[0].memory = *gpu_.Allocate(resident.reserved[1], kTensorBytes, Contents::kZeroed);
  resident.reserved.clear();
  resident.state = State::kResident;
  residency.Append(MakeWiderPlan(), std::move(resident));
  EXPECT_EQ(residency.totals().resident_keys, 1u);
  residency.CutBack(narrow);
  EXPECT_EQ(used(), 0u);
  EXPECT_EQ(residency.totals().resident_keys, 0u);
  EXPECT_EQ(residency.totals().allocated_bytes, 0u);
  residency.Append(MakeWiderPlan(), LazyPart(gpu_));
  EXPECT_EQ(residency.states(), std::vector<State>(5, State::kLazy));
  Load(residency, {4});
  EXPECT_EQ(residency.totals().resident_keys, 1u);
  EXPECT_NE(residency.Pin(4)->memory, nullptr);
}

// A lazy model whose two memory segments are reserved on `gpu`.
Residency::Content LazyWithReservations(FakeDevice& gpu) {
  std::vector<MemoryReservation> kept(2);
  kept[0] = *gpu.account().Reserve(3 * kTensorBytes);
  return {.plan = MakePlan(),
          .segments = {{.device = &gpu}, {.device = &gpu}, {.kind = SegmentKind::kFile}},
          .state = State::kLazy,
          .reserved = std::move(kept)};
}

TEST(ResidencyDevice, ARefusalGivesTheReservationBack) {
  FakeDevice gpu({.capacity_bytes = 4 * kTensorBytes, .fail_allocation = 2});
  Residency residency(LazyWithReservations(gpu));
  {
    Residency::Claim claim = residency.Begin(Tensors{0, 2});
    EXPECT_EQ(ErrorReason(Allocate(residency, claim).status()), Reason::kDeviceOutOfMemory);
  }
  EXPECT_EQ(gpu.account().state().used, 0);
  EXPECT_EQ(gpu.account().state().reserved, 3 * kTensorBytes);
  EXPECT_EQ(residency.totals().devices[0].memory_bytes, 3 * kTensorBytes);
}

// Asks for its caller's cancellation at every allocation.
class CancellingDevice : public FakeDevice {
 public:
  using FakeDevice::FakeDevice;
  absl::StatusOr<std::unique_ptr<DeviceMemory>> Allocate(MemoryReservation& reservation, uint64_t bytes,
                                                         Contents contents) override {
    stop.request_stop();
    return FakeDevice::Allocate(reservation, bytes, contents);
  }
  std::stop_source stop;
};

TEST(ResidencyDevice, ACancelledOneStopsBeforeTheNextSegment) {
  CancellingDevice gpu({.capacity_bytes = 4 * kTensorBytes});
  Residency residency(LazyWithReservations(gpu));
  {
    Residency::Claim claim = residency.Begin(Tensors{0, 2});
    EXPECT_EQ(ErrorReason(Allocate(residency, claim, {.stop = gpu.stop.get_token()}).status()), Reason::kLoadCancelled);
  }
  EXPECT_EQ(gpu.allocations(), 1);
  EXPECT_EQ(gpu.account().state().used, 0);
  EXPECT_EQ(gpu.account().state().reserved, 3 * kTensorBytes);
}

// Two host segments: tensors 0 and 1 with padding between and behind them, and tensor 2.
class HostMemoryOfClaims : public testing::Test {
 protected:
  static constexpr uint64_t kPadding = 256;

  HostMemoryOfClaims() {
    plan_->devices = {"cpu"};
    plan_->segments = {{.bytes = 2 * (kTensorBytes + kPadding), .tensor_bytes = 2 * kTensorBytes},
                       {.bytes = kTensorBytes, .tensor_bytes = kTensorBytes}};
    for (uint32_t i = 0; i < 3; ++i) {
      plan_->tensors.push_back({.key = i,
                                .segment = i / 2,
                                .segment_offset = i == 1 ? kTensorBytes + kPadding : 0,
                                .bytes = kTensorBytes,
                                .file_offset = i * kTensorBytes,
                                .stored_bytes = kTensorBytes});
    }
    residency_ = std::make_unique<Residency>(
        Residency::Content{.plan = plan_, .segments = {{.device = &cpu_}, {.device = &cpu_}}, .state = State::kLazy});
  }
  // What is not 0 of a segment that `tensors` were allocated.
  std::vector<uint64_t> BytesOfAnything(const Tensors& tensors, size_t segment) {
    Residency::Claim claim = residency_->Begin(tensors);
    const std::vector<Segment> segments = Allocate(*residency_, claim).value();
    std::vector<uint64_t> offsets;
    for (uint64_t i = 0; i < segments[segment].memory->bytes(); ++i) {
      if (segments[segment].memory->host()[i] != std::byte{0}) offsets.push_back(i);
    }
    return offsets;
  }

  FakeDevice cpu_{{.name = "cpu", .host_visible = true}};
  std::shared_ptr<LoadPlan> plan_ = std::make_shared<LoadPlan>();
  std::unique_ptr<Residency> residency_;
};

TEST_F(HostMemoryOfClaims, IsZeroedInThePaddingAloneWhereTheClaimFillsTheSegment) {
  std::vector<uint64_t> tensors(kTensorBytes);
  std::iota(tensors.begin(), tensors.end(), 0);
  EXPECT_EQ(BytesOfAnything({2}, 1), tensors);
  for (uint64_t i = 0; i < kTensorBytes; ++i) tensors.push_back(kTensorBytes + kPadding + i);
  EXPECT_EQ(BytesOfAnything({0, 1}, 0), tensors);
}

TEST_F(HostMemoryOfClaims, IsZeroedWhereOthersLoadAPartOfTheSegment) {
  EXPECT_THAT(BytesOfAnything({0, 2}, 0), testing::IsEmpty());
  const Residency::Claim other = residency_->Begin(Tensors{1});
  EXPECT_THAT(BytesOfAnything({0, 1}, 0), testing::IsEmpty());
}

}  // namespace
}  // namespace keyload
