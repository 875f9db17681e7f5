#include "server/placement/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/base/error.h"
#include "tests/unit/placement/model_builder.h"

namespace keyload {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Reason ReasonOf(const DeviceMapSpec& spec) {
  return ErrorReason(Place(ModelBuilder().M().model(), spec, EightGpus()).status());
}

TEST(Place, OneDevice) {
  for (const auto& [policy, text] : std::vector<std::pair<std::string, std::string>>{{"", "/:cpu"},
                                                                                     {"cpu", "/:cpu"},
                                                                                     {"cuda:1", "/:1"},
                                                                                     {"1", "/:1"},
                                                                                     {"cuda", "/:0"},
                                                                                     {"disk", "/:disk"},
                                                                                     {"GPU-222", "/:2"}}) {
    EXPECT_EQ(Map(ModelBuilder().M(), {.policy = policy}), text);
  }
  const auto placement = Place(ModelBuilder().M().model(), {.policy = "1"}, EightGpus());
  ASSERT_TRUE(placement.ok());
  EXPECT_THAT(placement->devices, ElementsAre("cuda:1"));
  EXPECT_THAT(placement->device_of, Each(0));
  EXPECT_EQ(placement->device_of.size(), 9u);
}

TEST(Place, EmptyModel) {
  EXPECT_EQ(MapText(Place({}, {.policy = "1"}, EightGpus())->device_map), "/:1");
  for (const char* policy : {"auto", "balanced_low_0", "sequential", "packed"}) {
    const auto placement = Place({}, {.policy = policy}, EightGpus());
    ASSERT_TRUE(placement.ok());
    EXPECT_THAT(placement->device_map, IsEmpty());
    EXPECT_THAT(placement->devices, IsEmpty());
  }
}

TEST(Place, SizesThatAddUpToMoreThanAnExbibyteAreRefusedByEveryKindOfMap) {
  PlacementModel model;
  for (const char* name : {"a", "b", "c"}) model.tensors.push_back({.name = name, .bytes = uint64_t{1} << 59});
  const std::vector<PlacementDevice> devices = {{.name = "cpu", .uuid = "", .free_bytes = 1}};
  DeviceMapSpec entries;
  entries.entries = {{"", "cpu"}};
  for (const DeviceMapSpec& spec : {DeviceMapSpec{.policy = "cpu"}, DeviceMapSpec{.policy = "auto"}, entries}) {
    const auto placement = Place(model, spec, devices);
    EXPECT_EQ(ErrorReason(placement.status()), Reason::kDeviceMapInvalid) << spec.policy;
    EXPECT_EQ(ErrorDetails(placement.status()).at("key"), "c") << spec.policy;
  }
  model.tensors.pop_back();
  EXPECT_TRUE(Place(model, {.policy = "cpu"}, devices).ok());
}

TEST(Place, BadSpecs) {
  EXPECT_EQ(ReasonOf({.policy = "auto", .entries = {{"", "0"}}}), Reason::kDeviceMapInvalid);
  EXPECT_EQ(ReasonOf({.policy = "best"}), Reason::kDeviceMapInvalid);
  EXPECT_EQ(ReasonOf({.policy = "cuda:8"}), Reason::kDeviceUnknown);
  EXPECT_EQ(ReasonOf({.policy = "-1"}), Reason::kDeviceUnknown);
  EXPECT_EQ(ReasonOf({.policy = "auto", .max_memory = {{"9", 1}}}), Reason::kDeviceUnknown);
}

TEST(Place, UnknownPolicyErrorListsThePolicies) {
  EXPECT_THAT(Map(ModelBuilder().M(), {.policy = "best"}), HasSubstr("\"best\" is neither a policy (auto, balanced,"));
}

TEST(Place, LimitsWithoutAPolicyAreRefused) {
  EXPECT_EQ(ReasonOf({.policy = "cpu", .max_memory = {{"cpu", 1}}}), Reason::kDeviceMapInvalid);
  EXPECT_EQ(ReasonOf({.entries = {{"", "cpu"}}, .max_memory = {{"cpu", 1}}}), Reason::kDeviceMapInvalid);
}

TEST(Place, AutoIsBalanced) {
  const std::string balanced = "0:0 1.linear1:0 1.batchnorm:1 1.linear2:1 2:1";
  EXPECT_EQ(Map(ModelBuilder().ThreeM(), {.limits = "0=1000 1=1000", .policy = "auto"}), balanced);
  EXPECT_EQ(Map(ModelBuilder().ThreeM(), {.limits = "0=1000 1=1000", .policy = "balanced"}), balanced);
  EXPECT_EQ(Map(ModelBuilder().ThreeM(), {.limits = "0=1000 1=1000", .policy = "sequential"}), "/:0");
}

TEST(Place, LowZeroKeepsTheFirstGpuFree) {
  EXPECT_EQ(Map(ModelBuilder().ThreeM(), {.limits = "0=1000 1=1000", .policy = "balanced_low_0"}), "/:1");
}

TEST(Place, DevicesNotNamedAreNotUsed) {
  const auto placement = Place(ModelBuilder().M().model(), MakeSpec({.limits = "3=100 5=100"}), EightGpus());
  ASSERT_TRUE(placement.ok());
  EXPECT_THAT(placement->devices, ElementsAre("cuda:5", "disk"));
}

TEST(Place, WithoutLimitsALoneGpuKeepsATenthFree) {
  const std::vector<PlacementDevice> devices = {{.name = "cuda:0", .uuid = "", .free_bytes = 262},
                                                {.name = "cpu", .uuid = "", .free_bytes = 1000}};
  ModelBuilder model;
  model.M();
  EXPECT_EQ(MapText(Place(model.model(), {.policy = "sequential"}, devices)->device_map), "/:0");
  EXPECT_EQ(MapText(Place(model.model(), {.policy = "auto"}, devices)->device_map),
            "linear1:0 batchnorm:cpu linear2:cpu");
}

}  // namespace
}  // namespace keyload
