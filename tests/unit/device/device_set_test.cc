#include <gtest/gtest.h>

#include <limits>
#include <regex>

#include "server/base/error.h"
#include "server/device/device.h"

namespace keyload {
namespace {

TEST(DeviceSetTest, FindsDevicesByAlias) {
  std::vector<std::unique_ptr<Device>> devices;
  devices.push_back(MakeHostDevice(100));
  devices.push_back(MakeSimulatedGpu({.index = 3, .capacity_bytes = 200}));
  const DeviceSet set(std::move(devices), {"no driver"});
  ASSERT_NE(set.Find("cpu"), nullptr);
  ASSERT_NE(set.Find("cuda:3"), nullptr);
  EXPECT_EQ(set.Find("cuda:3")->account().state().capacity, 200u);
  EXPECT_EQ(set.Find("cuda:0"), nullptr);
  EXPECT_EQ(set.notes(), std::vector<std::string>{"no driver"});
}

TEST(SimulatedGpuTest, SaysThatItIsSimulatedAndHasAStableUuid) {
  const auto gpu = MakeSimulatedGpu({.index = 10, .capacity_bytes = 1});
  EXPECT_TRUE(gpu->info().simulated);
  EXPECT_EQ(gpu->info().model, "Simulated GPU");
  EXPECT_TRUE(std::regex_match(gpu->info().uuid, std::regex("GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")))
      << gpu->info().uuid;
  EXPECT_EQ(gpu->info().uuid, MakeSimulatedGpu({.index = 10, .capacity_bytes = 1})->info().uuid);
  EXPECT_NE(gpu->info().uuid, MakeSimulatedGpu({.index = 11, .capacity_bytes = 1})->info().uuid);
}

TEST(HostDeviceTest, WhatTheSystemRefusesIsOutOfMemoryAndChargesNothing) {
  const uint64_t everything = std::numeric_limits<uint64_t>::max();
  for (const uint64_t bytes : {everything, uint64_t{1} << 62}) {
    const auto device = MakeHostDevice(everything);
    auto reservation = device->account().Reserve(bytes);
    ASSERT_TRUE(reservation.ok());
    EXPECT_EQ(ErrorReason(device->Allocate(*reservation, bytes, Contents::kZeroed).status()),
              Reason::kDeviceOutOfMemory);
    EXPECT_EQ(device->account().state().used, 0u);
    EXPECT_EQ(device->account().state().reserved, bytes);
  }
}

}  // namespace
}  // namespace keyload
