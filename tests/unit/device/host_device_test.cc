#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "server/base/error.h"
#include "server/base/no_throw.h"
#include "server/device/device.h"
#include "tests/support/failing_heap.h"

namespace keyload {
namespace {

constexpr uint64_t kMiB = 1u << 20;
constexpr int kMark = 0x5a;

absl::StatusOr<std::unique_ptr<DeviceMemory>> Allocate(Device& device, uint64_t bytes, Contents contents) {
  KEYLOAD_ASSIGN_OR_RETURN(MemoryReservation reservation, device.account().Reserve(bytes));
  return device.Allocate(reservation, bytes, contents);
}

// Allocates `bytes`, writes them and frees them.
void UseOnce(Device& device, uint64_t bytes) {
  const auto memory = Allocate(device, bytes, Contents::kUnspecified);
  ASSERT_TRUE(memory.ok()) << memory.status();
  std::memset((*memory)->host().data(), kMark, bytes);
}

int FirstByte(DeviceMemory& memory) { return std::to_integer<int>(memory.host()[0]); }

TEST(HostDeviceTest, FreedMemoryIsUsedAgain) {
  const auto device = MakeHostDevice({.capacity_bytes = 64 * kMiB, .reuse_bytes = 16 * kMiB});
  UseOnce(*device, 4 * kMiB);
  EXPECT_EQ(device->account().state().idle, 4 * kMiB);
  EXPECT_EQ(device->account().state().free(), 64 * kMiB);
  const auto memory = Allocate(*device, 4 * kMiB, Contents::kUnspecified);
  ASSERT_TRUE(memory.ok());
  EXPECT_EQ(FirstByte(**memory), kMark);
  EXPECT_EQ(device->account().state().idle, 0u);
}

TEST(HostDeviceTest, WhatLiesBehindTheLastByteOfUsedMemoryIsZeroed) {
  const auto device = MakeHostDevice({.capacity_bytes = 64 * kMiB, .reuse_bytes = 16 * kMiB});
  UseOnce(*device, 4 * kMiB);
  const auto memory = Allocate(*device, 4 * kMiB - 100, Contents::kUnspecified);
  ASSERT_TRUE(memory.ok());
  std::byte* const end = (*memory)->host().data() + (*memory)->bytes();
  EXPECT_EQ(std::to_integer<int>(end[-1]), kMark);
  EXPECT_EQ(std::vector<std::byte>(end, end + 100), std::vector<std::byte>(100));
}

TEST(HostDeviceTest, WriteOfFreshMemoryMakesThePagesThatItNeeds) {
  const auto device = MakeHostDevice({.capacity_bytes = 64 * kMiB, .reuse_bytes = 16 * kMiB});
  {
    const auto memory = Allocate(*device, 4 * kMiB, Contents::kUnspecified);
    ASSERT_TRUE(memory.ok());
    ASSERT_TRUE((*memory)->is_fresh());
    const std::byte written[] = {std::byte{'x'}};
    ASSERT_TRUE((*memory)->Write(4097, written).ok());
    EXPECT_EQ(std::to_integer<int>((*memory)->host()[4096]), 0);
    EXPECT_EQ(std::to_integer<int>((*memory)->host()[4097]), 'x');
  }
  UseOnce(*device, 4 * kMiB);
  const auto again = Allocate(*device, 4 * kMiB, Contents::kUnspecified);
  ASSERT_TRUE(again.ok());
  EXPECT_FALSE((*again)->is_fresh()) << "it has pages";
}

TEST(HostDeviceTest, MemoryWithHolesIsGivenBack) {
  const auto device = MakeHostDevice({.capacity_bytes = 64 * kMiB, .reuse_bytes = 16 * kMiB});
  {
    const auto memory = Allocate(*device, 8 * kMiB, Contents::kZeroed);
    ASSERT_TRUE(memory.ok());
    (*memory)->host()[0] = std::byte{1};
  }
  EXPECT_EQ(device->account().state().idle, 0u);
}

TEST(HostDeviceTest, NoMorePiecesAreKeptThanAllowedAndNoSmallOnes) {
  const auto device = MakeHostDevice({.capacity_bytes = 64 * kMiB, .reuse_bytes = 64 * kMiB, .reuse_segments = 2});
  std::vector<std::unique_ptr<DeviceMemory>> pieces;
  for (const uint64_t bytes : {kMiB / 2, 2 * kMiB, 3 * kMiB, 4 * kMiB}) {
    auto memory = Allocate(*device, bytes, Contents::kUnspecified);
    ASSERT_TRUE(memory.ok());
    std::memset((*memory)->host().data(), kMark, bytes);
    pieces.push_back(*std::move(memory));
  }
  for (auto& piece : pieces) piece.reset();
  EXPECT_EQ(device->account().state().idle, 7 * kMiB) << "the two that were freed last";
}

TEST(HostDeviceTest, WithoutABudgetNothingIsKept) {
  const auto device = MakeHostDevice({.capacity_bytes = 64 * kMiB});
  UseOnce(*device, 4 * kMiB);
  EXPECT_EQ(device->account().state().idle, 0u);
}

TEST(HostDeviceTest, TheBudgetKeepsWhatWasFreedLast) {
  const auto device = MakeHostDevice({.capacity_bytes = 64 * kMiB, .reuse_bytes = 8 * kMiB});
  UseOnce(*device, 10 * kMiB);
  EXPECT_EQ(device->account().state().idle, 0u);
  UseOnce(*device, 2 * kMiB);
  UseOnce(*device, 8 * kMiB);
  EXPECT_EQ(device->account().state().idle, 8 * kMiB);
}

TEST(HostDeviceTest, WhatThereIsNoHeapForIsCountedNowhere) {
  HostMemoryRoom room({.bounds = [] { return std::vector<MemoryBound>(); }, .margin = nullptr});
  const auto device = MakeHostDevice({.capacity_bytes = 16 * kMiB, .reuse_bytes = 16 * kMiB, .room = &room});
  const std::vector<std::byte> source(4096);
  size_t refused = 1;
  for (size_t first = 1; refused > 0; ++first) {
    MemoryReservation reservation = *device->account().Reserve(2 * kMiB);
    const FailingHeap heap(first);
    NoThrow([&]() -> absl::Status {
      KEYLOAD_ASSIGN_OR_RETURN(const std::unique_ptr<DeviceMemory> memory,
                               device->Allocate(reservation, 2 * kMiB, Contents::kUnspecified));
      KEYLOAD_RETURN_IF_ERROR(memory->Write(0, source));
      return memory->Write(kMiB, source);
    }).IgnoreError();
    refused = heap.refused();
    EXPECT_EQ(device->account().state().used, 0u);
    EXPECT_EQ(room.promised(), 0u);
  }
  EXPECT_EQ(device->account().state().reserved, 0u);
}

TEST(HostDeviceTest, IdleMemoryGoesWhenAnAllocationNeedsItsRoom) {
  const auto device = MakeHostDevice({.capacity_bytes = 16 * kMiB, .reuse_bytes = 16 * kMiB});
  UseOnce(*device, 4 * kMiB);
  const auto memory = Allocate(*device, 13 * kMiB, Contents::kZeroed);
  ASSERT_TRUE(memory.ok()) << memory.status();
  EXPECT_EQ(device->account().state().idle, 0u);
  EXPECT_TRUE(Allocate(*device, 3 * kMiB, Contents::kZeroed).ok());
}

TEST(HostDeviceTest, UsedAndIdleMemoryTogetherNeverExceedTheCapacity) {
  const auto device = MakeHostDevice({.capacity_bytes = 16 * kMiB, .reuse_bytes = 16 * kMiB});
  std::vector<std::jthread> threads;
  for (uint64_t i = 0; i < 3; ++i) {
    threads.emplace_back([&device, i] {
      for (uint64_t round = 0; round < 200; ++round) {
        const auto memory = Allocate(*device, (1 + (round * 7 + i * 3) % 5) * kMiB, Contents::kUnspecified);
        ASSERT_TRUE(memory.ok()) << memory.status();
        std::memset((*memory)->host().data(), kMark, (*memory)->bytes());
      }
    });
  }
  threads.emplace_back([&device] {
    for (int round = 0; round < 10'000; ++round) {
      const MemoryState state = device->account().state();
      ASSERT_LE(state.used + state.idle, state.capacity);
    }
  });
  threads.clear();
  EXPECT_EQ(device->account().state().free(), 16 * kMiB);
}

TEST(HostDeviceTest, NotesSayWhatIsKept) {
  std::vector<std::unique_ptr<Device>> devices;
  devices.push_back(MakeHostDevice({.capacity_bytes = 64 * kMiB, .reuse_bytes = 16 * kMiB}));
  UseOnce(*devices[0], 4 * kMiB);
  const DeviceSet set(std::move(devices));
  EXPECT_THAT(set.notes(), testing::Contains("cpu: 4.0 MiB of freed memory are kept for reuse"));
}

TEST(HostDeviceTest, WhatTheSystemRefusesIsOutOfMemoryAndChargesNothing) {
  const uint64_t everything = std::numeric_limits<uint64_t>::max();
  for (const uint64_t bytes : {everything, uint64_t{1} << 62}) {
    const auto device = MakeHostDevice({.capacity_bytes = everything});
    auto reservation = device->account().Reserve(bytes);
    ASSERT_TRUE(reservation.ok());
    EXPECT_EQ(ErrorReason(device->Allocate(*reservation, bytes, Contents::kZeroed).status()),
              Reason::kDeviceOutOfMemory);
    EXPECT_EQ(device->account().state().used, 0u);
    EXPECT_EQ(device->account().state().reserved, bytes);
  }
}

// Lowers the limit of descriptors for as long as it lives.
class DescriptorLimit {
 public:
  explicit DescriptorLimit(rlim_t limit) {
    EXPECT_EQ(::getrlimit(RLIMIT_NOFILE, &before_), 0);
    rlimit lowered = before_;
    lowered.rlim_cur = limit;
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &lowered), 0);
  }
  ~DescriptorLimit() { ::setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_ = {};
};

TEST(HostDeviceTest, TooManyDescriptorsAreNamedInTheError) {
  const auto device = MakeHostDevice({.capacity_bytes = 1024 * kMiB});
  auto limit = std::make_optional<DescriptorLimit>(64);
  std::vector<std::unique_ptr<DeviceMemory>> segments;
  absl::Status status;
  while (status.ok() && segments.size() < 100) {
    auto memory = Allocate(*device, 4096, Contents::kZeroed);
    status = memory.status();
    if (memory.ok()) segments.push_back(*std::move(memory));
  }
  limit.reset();  // sanitizers take descriptors too
  EXPECT_EQ(ErrorReason(status), Reason::kDeviceOutOfMemory);
  EXPECT_THAT(status.message(), testing::HasSubstr("this process may have 64 (RLIMIT_NOFILE)"));
}

TEST(HostDeviceTest, IdleMemoryGivesItsDescriptorsToThoseThatNeedThem) {
  const auto device = MakeHostDevice({.capacity_bytes = 1024 * kMiB, .reuse_bytes = 1024 * kMiB});
  const DescriptorLimit limit(64);
  std::vector<std::unique_ptr<DeviceMemory>> segments;
  for (int i = 0; i < 40; ++i) segments.push_back(*Allocate(*device, 4096, Contents::kZeroed));
  segments.clear();
  for (int i = 0; i < 40; ++i) {
    auto memory = Allocate(*device, 65'536, Contents::kZeroed);
    ASSERT_TRUE(memory.ok()) << memory.status();
    segments.push_back(*std::move(memory));
  }
}

TEST(HostDeviceTest, ThousandsOfSegments) {
  rlimit files = {};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &files), 0);
  const size_t count = files.rlim_cur > 16'000 ? 15'000 : files.rlim_cur - 100;
  const auto device = MakeHostDevice({.capacity_bytes = 1024 * kMiB, .reuse_bytes = 1024 * kMiB});
  for (int round = 0; round < 2; ++round) {
    std::vector<std::unique_ptr<DeviceMemory>> segments;
    for (size_t i = 0; i < count; ++i) {
      auto memory = Allocate(*device, 4096, Contents::kUnspecified);
      ASSERT_TRUE(memory.ok()) << memory.status();
      segments.push_back(*std::move(memory));
    }
  }
  EXPECT_EQ(device->account().state().used, 0u);
  EXPECT_EQ(device->account().state().idle, 0u) << "too small to keep a descriptor for";
}

}  // namespace
}  // namespace keyload
