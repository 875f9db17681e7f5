#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <future>
#include <limits>
#include <ostream>
#include <thread>
#include <vector>

#include "server/base/error.h"
#include "server/device/device.h"
#include "tests/support/fake_device.h"
#include "tests/support/temporary_file.h"

namespace keyload {
namespace {

constexpr uint64_t kCapacity = 64u << 20;

struct DeviceCase {
  std::string name;
  std::function<std::unique_ptr<Device>()> make;  // with kCapacity
};
void PrintTo(const DeviceCase& tested, std::ostream* out) { *out << tested.name; }

// What every Device promises, whatever its memory is.
class DeviceContractTest : public testing::TestWithParam<DeviceCase> {
 protected:
  std::unique_ptr<DeviceMemory> MustAllocate(uint64_t bytes, Contents contents = Contents::kZeroed) {
    absl::StatusOr<MemoryReservation> reservation = device_->account().Reserve(bytes);
    EXPECT_TRUE(reservation.ok()) << reservation.status();
    absl::StatusOr<std::unique_ptr<DeviceMemory>> memory = device_->Allocate(*reservation, bytes, contents);
    EXPECT_TRUE(memory.ok()) << memory.status();
    return *std::move(memory);
  }
  absl::Status Copy(DeviceMemory& memory, uint64_t offset, std::span<const std::byte> source) {
    std::promise<absl::Status> done;
    device_->CopyAsync(memory, offset, source, [&](absl::Status status) { done.set_value(std::move(status)); });
    return done.get_future().get();
  }
  std::vector<std::byte> MustRead(DeviceMemory& memory, uint64_t offset, uint64_t size) {
    std::vector<std::byte> bytes(size, std::byte{0x77});
    const absl::Status status = device_->Read(memory, offset, bytes);
    EXPECT_TRUE(status.ok()) << status;
    return bytes;
  }

  std::unique_ptr<Device> device_ = GetParam().make();
};

TEST_P(DeviceContractTest, MemoryIsZeroedWhereThatIsAskedFor) {
  const auto memory = MustAllocate(100'000);
  EXPECT_THAT(MustRead(*memory, 0, 100'000), testing::Each(std::byte{0}));
}

TEST_P(DeviceContractTest, MemoryIsZeroedAlsoWhereOthersHaveUsedItBefore) {
  for (const uint64_t bytes : {3'000'000, 3'000'000, 2'900'000, 3'100'000, 1'000'000}) {
    const auto memory = MustAllocate(bytes);
    EXPECT_TRUE(MustRead(*memory, 0, bytes) == std::vector<std::byte>(bytes)) << bytes;
    EXPECT_TRUE(Copy(*memory, 0, std::vector<std::byte>(bytes, std::byte{0x55})).ok());
  }
}

TEST_P(DeviceContractTest, MemoryOfUnspecifiedContentsTakesCopiesLikeAnyOther) {
  const std::vector<std::byte> source = PatternBytes(100'000);
  for (int round = 0; round < 3; ++round) {
    const auto memory = MustAllocate(source.size(), Contents::kUnspecified);
    ASSERT_TRUE(Copy(*memory, 0, source).ok());
    EXPECT_EQ(MustRead(*memory, 0, source.size()), source);
  }
}

TEST_P(DeviceContractTest, ACopyArrivesAtItsOffsetAndNowhereElse) {
  const auto memory = MustAllocate(10'000);
  const std::vector<std::byte> source = PatternBytes(5'001);
  ASSERT_TRUE(Copy(*memory, 3, source).ok());
  EXPECT_EQ(MustRead(*memory, 3, source.size()), source);
  EXPECT_THAT(MustRead(*memory, 0, 3), testing::Each(std::byte{0}));
  EXPECT_THAT(MustRead(*memory, 5'004, 10'000 - 5'004), testing::Each(std::byte{0}));
}

TEST_P(DeviceContractTest, CopiesFinishOnAnotherThread) {
  const auto memory = MustAllocate(16);
  const std::vector<std::byte> source = PatternBytes(16);
  std::promise<std::thread::id> thread;
  device_->CopyAsync(*memory, 0, source, [&](absl::Status) { thread.set_value(std::this_thread::get_id()); });
  EXPECT_NE(thread.get_future().get(), std::this_thread::get_id());
}

TEST_P(DeviceContractTest, CopiesFromManyThreadsAllArrive) {
  constexpr size_t kThreads = 4;
  constexpr size_t kBytes = 64 << 10;
  const auto memory = MustAllocate(kThreads * kBytes);
  const std::vector<std::byte> source = PatternBytes(kThreads * kBytes);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      for (size_t offset = i * kBytes; offset < (i + 1) * kBytes; offset += 4096) {
        EXPECT_TRUE(Copy(*memory, offset, std::span(source).subspan(offset, 4096)).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(MustRead(*memory, 0, source.size()), source);
}

TEST_P(DeviceContractTest, ACopyThatLeavesTheMemoryFailsThroughDone) {
  const auto memory = MustAllocate(100);
  const std::vector<std::byte> source = PatternBytes(50);
  for (const uint64_t offset : {uint64_t{51}, uint64_t{101}, std::numeric_limits<uint64_t>::max() - 10}) {
    EXPECT_EQ(ErrorReason(Copy(*memory, offset, source)), Reason::kInternal) << offset;
  }
  EXPECT_THAT(MustRead(*memory, 0, 100), testing::Each(std::byte{0}));
}

TEST_P(DeviceContractTest, AReadThatLeavesTheMemoryFails) {
  const auto memory = MustAllocate(100);
  std::vector<std::byte> bytes(50);
  EXPECT_FALSE(device_->Read(*memory, 51, bytes).ok());
  EXPECT_FALSE(device_->Read(*memory, std::numeric_limits<uint64_t>::max() - 10, bytes).ok());
}

TEST_P(DeviceContractTest, MemoryOfAnotherDeviceIsRefused) {
  const std::unique_ptr<Device> other = GetParam().make();
  auto reservation = other->account().Reserve(100);
  ASSERT_TRUE(reservation.ok());
  auto memory = other->Allocate(*reservation, 100, Contents::kZeroed);
  ASSERT_TRUE(memory.ok());
  EXPECT_EQ(ErrorReason(Copy(**memory, 0, PatternBytes(10))), Reason::kInternal);
}

TEST_P(DeviceContractTest, ZeroBytesCanBeAllocatedCopiedAndRead) {
  const auto memory = MustAllocate(0);
  EXPECT_EQ(memory->bytes(), 0u);
  EXPECT_TRUE(Copy(*memory, 0, {}).ok());
  EXPECT_TRUE(device_->Read(*memory, 0, {}).ok());
}

TEST_P(DeviceContractTest, AllocationsAreChargedUntilTheyAreDestroyed) {
  auto memory = MustAllocate(kCapacity);
  EXPECT_EQ(device_->account().state().used, kCapacity);
  EXPECT_EQ(device_->account().state().free(), 0u);
  memory.reset();
  EXPECT_EQ(device_->account().state().used, 0u);
  EXPECT_EQ(device_->account().state().free(), kCapacity);
}

TEST_P(DeviceContractTest, AnAllocationBeyondItsReservationIsRefusedAndChargesNothing) {
  auto reservation = device_->account().Reserve(100);
  ASSERT_TRUE(reservation.ok());
  const auto memory = device_->Allocate(*reservation, 101, Contents::kZeroed);
  EXPECT_EQ(ErrorReason(memory.status()), Reason::kDeviceOutOfMemory);
  EXPECT_EQ(ErrorDetails(memory.status())["device"], device_->info().name);
  EXPECT_EQ(device_->account().state().used, 0u);
  EXPECT_EQ(device_->account().state().reserved, 100u);
}

TEST_P(DeviceContractTest, AReservationOfAnotherDeviceIsRefused) {
  const std::unique_ptr<Device> other = GetParam().make();
  auto reservation = other->account().Reserve(100);
  ASSERT_TRUE(reservation.ok());
  EXPECT_EQ(ErrorReason(device_->Allocate(*reservation, 100, Contents::kZeroed).status()), Reason::kDeviceOutOfMemory);
  EXPECT_EQ(device_->account().state().used, 0u);
}

TEST_P(DeviceContractTest, HostMemoryIsAbsentOrWhereReadLooks) {
  const auto memory = MustAllocate(4096);
  if (memory->host().empty()) return;  // written by copies only
  memory->host()[17] = std::byte{0x42};
  EXPECT_EQ(MustRead(*memory, 17, 1)[0], std::byte{0x42});
}

INSTANTIATE_TEST_SUITE_P(
    Devices, DeviceContractTest,
    testing::Values(DeviceCase{"Host", [] { return MakeHostDevice({.capacity_bytes = kCapacity}); }},
                    DeviceCase{"HostThatReusesMemory",
                               [] { return MakeHostDevice({.capacity_bytes = kCapacity, .reuse_bytes = kCapacity}); }},
                    DeviceCase{"SimulatedGpu",
                               [] { return MakeSimulatedGpu({.index = 0, .capacity_bytes = kCapacity}); }},
                    DeviceCase{"SimulatedGpuWithALink",
                               [] {
                                 return MakeSimulatedGpu(
                                     {.index = 1, .capacity_bytes = kCapacity, .copy_bytes_per_second = 1ull << 30});
                               }},
                    DeviceCase{"Fake",
                               []() -> std::unique_ptr<Device> {
                                 return std::make_unique<FakeDevice>(FakeDevice::Options{.capacity_bytes = kCapacity});
                               }}),
    [](const testing::TestParamInfo<DeviceCase>& tested) { return tested.param.name; });

}  // namespace
}  // namespace keyload
