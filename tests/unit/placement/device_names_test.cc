#include "server/placement/device_names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/base/error.h"
#include "server/placement/max_memory.h"

namespace keyload {
namespace {

using ::testing::HasSubstr;

const std::vector<PlacementDevice> kDevices = {{.name = "cpu", .uuid = "", .free_bytes = 7},
                                               {.name = "cuda:10", .uuid = "GPU-b", .free_bytes = 10},
                                               {.name = "cuda:0", .uuid = "GPU-a", .free_bytes = 5},
                                               {.name = "cuda:2", .uuid = "GPU-c", .free_bytes = 6}};

std::string Normalised(std::string_view name) {
  const auto device = DeviceNames(kDevices).Normalise(name);
  return device.ok() ? *device : std::string(ReasonName(ErrorReason(device.status())));
}

TEST(DeviceNames, EveryNameGivesTheAlias) {
  EXPECT_EQ(Normalised("0"), "cuda:0");
  EXPECT_EQ(Normalised("cuda"), "cuda:0");
  EXPECT_EQ(Normalised("10"), "cuda:10");
  EXPECT_EQ(Normalised("cuda:2"), "cuda:2");
  EXPECT_EQ(Normalised("GPU-b"), "cuda:10");
  EXPECT_EQ(Normalised("cpu"), "cpu");
}

TEST(DeviceNames, HostAndDiskAreAlwaysKnown) {
  const DeviceNames planned({{.name = "cuda:0", .uuid = "", .free_bytes = 1}});
  EXPECT_EQ(*planned.Normalise("disk"), "disk");
  EXPECT_EQ(*planned.Normalise("cpu"), "cpu");
}

TEST(DeviceNames, UnknownDevicesAreRefused) {
  for (const char* name : {"1", "cuda:1", "-1", "GPU-z", "", "mps", "99999999999", "cuda:01"}) {
    EXPECT_EQ(Normalised(name), "DEVICE_UNKNOWN") << name;
  }
}

TEST(DeviceNames, ErrorNamesTheDeviceAndTheKnownOnes) {
  const std::string message(DeviceNames(kDevices).Normalise("cuda:7").status().message());
  EXPECT_THAT(message, HasSubstr("\"cuda:7\""));
  EXPECT_THAT(message, HasSubstr("cpu, cuda:10, cuda:0, cuda:2, disk"));
}

std::vector<std::string> Order(const absl::StatusOr<std::vector<DeviceLimit>>& limits) {
  std::vector<std::string> names;
  if (limits.ok()) {
    for (const DeviceLimit& limit : *limits) names.push_back(limit.device);
  }
  return names;
}

TEST(MaxMemory, WithoutLimitsAllFreeMemoryGpusAscendingThenCpu) {
  const auto limits = ResolveMaxMemory({}, DeviceNames(kDevices), kDevices);
  ASSERT_TRUE(limits.ok());
  EXPECT_EQ(Order(limits), (std::vector<std::string>{"cuda:0", "cuda:2", "cuda:10", "cpu"}));
  EXPECT_EQ(limits->back(), (DeviceLimit{.device = "cpu", .bytes = 7, .gpu = false}));
}

TEST(MaxMemory, GivenLimitsAloneAreUsed) {
  const auto limits =
      ResolveMaxMemory({.max_memory = {{"cpu", 3}, {"GPU-b", 4}, {"disk", 5}}}, DeviceNames(kDevices), kDevices);
  EXPECT_EQ(Order(limits), (std::vector<std::string>{"cuda:10", "cpu"}));
}

TEST(MaxMemory, OneDeviceWithTwoLimitsIsRefused) {
  const auto limits = ResolveMaxMemory({.max_memory = {{"0", 3}, {"cuda:0", 4}}}, DeviceNames(kDevices), kDevices);
  EXPECT_EQ(ErrorReason(limits.status()), Reason::kDeviceMapInvalid);
}

TEST(MaxMemory, OneDeviceWithOneLimitTwiceIsOnce) {
  const auto limits = ResolveMaxMemory({.max_memory = {{"0", 3}, {"cuda:0", 3}}}, DeviceNames(kDevices), kDevices);
  EXPECT_EQ(Order(limits), (std::vector<std::string>{"cuda:0"}));
}

TEST(MaxMemory, UnknownDeviceIsRefused) {
  EXPECT_EQ(ErrorReason(ResolveMaxMemory({.max_memory = {{"7", 3}}}, DeviceNames(kDevices), kDevices).status()),
            Reason::kDeviceUnknown);
}

}  // namespace
}  // namespace keyload
