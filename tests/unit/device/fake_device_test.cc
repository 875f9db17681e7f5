#include "tests/support/fake_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <vector>

#include "server/base/error.h"
#include "tests/support/temporary_file.h"

namespace keyload {
namespace {

TEST(FakeDeviceTest, MemoryIsPoisonedUntilTheHeldCopyIsReleased) {
  FakeDevice device({});
  auto reservation = device.account().Reserve(100);
  const auto memory = *device.Allocate(*reservation, 100, Contents::kZeroed);
  device.HoldCopies();
  const std::vector<std::byte> source = PatternBytes(100);
  std::promise<absl::Status> done;
  device.CopyAsync(*memory, 0, source, [&](absl::Status status) { done.set_value(std::move(status)); });
  device.WaitForCopiesStarted(1);
  std::vector<std::byte> bytes(100);
  ASSERT_TRUE(device.Read(*memory, 0, bytes).ok());
  EXPECT_THAT(bytes, testing::Each(FakeDevice::kPoison));
  device.ReleaseCopies();
  ASSERT_TRUE(done.get_future().get().ok());
  ASSERT_TRUE(device.Read(*memory, 0, bytes).ok());
  EXPECT_EQ(bytes, source);
}

TEST(FakeDeviceTest, MemoryOfUnspecifiedContentsIsPoisoned) {
  FakeDevice device({});
  auto reservation = device.account().Reserve(100);
  const auto memory = *device.Allocate(*reservation, 100, Contents::kUnspecified);
  std::vector<std::byte> bytes(100);
  ASSERT_TRUE(device.Read(*memory, 0, bytes).ok());
  EXPECT_THAT(bytes, testing::Each(FakeDevice::kPoison));
}

TEST(FakeDeviceTest, TheChosenCopyAndTheChosenAllocationFail) {
  FakeDevice device({.fail_copy = 2, .fail_allocation = 2});
  auto reservation = device.account().Reserve(100);
  const auto memory = *device.Allocate(*reservation, 50, Contents::kZeroed);
  EXPECT_EQ(ErrorReason(device.Allocate(*reservation, 50, Contents::kZeroed).status()), Reason::kDeviceOutOfMemory);
  EXPECT_EQ(device.live_allocations(), 1u);
  const std::vector<std::byte> source = PatternBytes(10);
  for (const bool expected : {true, false, true}) {
    std::promise<absl::Status> done;
    device.CopyAsync(*memory, 0, source, [&](absl::Status status) { done.set_value(std::move(status)); });
    EXPECT_EQ(done.get_future().get().ok(), expected);
  }
}

}  // namespace
}  // namespace keyload
