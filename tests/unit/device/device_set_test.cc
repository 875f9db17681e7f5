#include <gtest/gtest.h>

#include <regex>

#include "server/device/device.h"

namespace keyload {
namespace {

TEST(DeviceSetTest, FindsDevicesByAlias) {
  std::vector<std::unique_ptr<Device>> devices;
  devices.push_back(MakeHostDevice({.capacity_bytes = 100}));
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

}  // namespace
}  // namespace keyload
