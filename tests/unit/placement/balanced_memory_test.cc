#include "server/placement/balanced_memory.h"

#include <gtest/gtest.h>

#include <sstream>

#include "server/base/strings.h"
#include "tests/unit/placement/model_builder.h"

namespace keyload {
namespace {

struct Request {
  std::string limits;
  bool low_zero = false;
  bool limits_given = true;
};

// The limits after balancing, "0=215 1=300".
std::string Balanced(const ModelBuilder& builder, const Request& request) {
  const std::vector<PlacementDevice> devices = EightGpus();
  const auto limits = ResolveMaxMemory(MakeSpec({.limits = request.limits}), DeviceNames(devices), devices);
  const auto tree = ModuleTree::Create(builder.model());
  if (!limits.ok() || !tree.ok()) return "error";
  std::string text;
  for (const DeviceLimit& limit :
       BalanceMemory(*tree, *limits, {.low_zero = request.low_zero, .limits_given = request.limits_given})) {
    const std::string name = limit.gpu ? limit.device.substr(5) : limit.device;
    StrAppend(&text, text.empty() ? "" : " ", name, "=", limit.bytes);
  }
  return text;
}

TEST(BalancedMemory, SmallGpusKeepTheirLimits) {
  EXPECT_EQ(Balanced(ModelBuilder().M(), {.limits = "0=200 1=200"}), "0=200 1=200");
  EXPECT_EQ(Balanced(ModelBuilder().M(), {.limits = "0=200 2=200"}), "0=200 2=200");
}

TEST(BalancedMemory, AllButTheLastGetAShareAndAnAllowance) {
  EXPECT_EQ(Balanced(ModelBuilder().M(), {.limits = "0=300 1=300"}), "0=215 1=300");
  EXPECT_EQ(Balanced(ModelBuilder().M(), {.limits = "0=300 1=500"}), "0=215 1=500");
  EXPECT_EQ(Balanced(ModelBuilder().M(), {.limits = "0=300 1=300 2=300"}), "0=175 1=175 2=300");
}

TEST(BalancedMemory, OneGpuKeepsItsGivenLimit) {
  EXPECT_EQ(Balanced(ModelBuilder().M(), {.limits = "0=300 cpu=1000"}), "0=300 cpu=1000");
}

TEST(BalancedMemory, OneGpuWithoutGivenLimitsKeepsATenthFree) {
  EXPECT_EQ(Balanced(ModelBuilder().M(), {.limits = "0=305 cpu=1000", .limits_given = false}), "0=274 cpu=1000");
  EXPECT_EQ(Balanced(ModelBuilder().M(), {.limits = "0=18446744073709551615", .limits_given = false}),
            "0=16602069666338596453");
}

TEST(BalancedMemory, GpusWithoutMemoryDoNotCount) {
  EXPECT_EQ(Balanced(ModelBuilder().M(), {.limits = "0=0 1=300 2=300"}), "0=0 1=215 2=300");
  EXPECT_EQ(Balanced(ModelBuilder().M(), {.limits = "0=0 cpu=100"}), "0=0 cpu=100");
}

TEST(BalancedMemory, LowZeroLeavesTheFirstGpuWhatTheOthersCannotTake) {
  EXPECT_EQ(Balanced(ModelBuilder().M(), {.limits = "0=200 1=200", .low_zero = true}), "0=36 1=200");
  EXPECT_EQ(Balanced(ModelBuilder().M(), {.limits = "0=300 1=300", .low_zero = true}), "0=0 1=300");
  EXPECT_EQ(Balanced(ModelBuilder().M(), {.limits = "0=300 1=300 2=300", .low_zero = true}), "0=0 1=215 2=300");
}

// accelerate raises a KeyError.
TEST(BalancedMemory, LowZeroTakesGapsInTheGpuNumbers) {
  EXPECT_EQ(Balanced(ModelBuilder().M(), {.limits = "2=200 5=200", .low_zero = true}), "2=36 5=200");
}

TEST(BalancedMemory, AllowanceIsTheNoSplitModule) {
  EXPECT_EQ(Balanced(ModelBuilder().ThreeM(), {.limits = "0=1000 1=1000"}), "0=451 1=1000");
  EXPECT_EQ(Balanced(ModelBuilder().ThreeM().NoSplit("ModelForTest"), {.limits = "0=1000 1=1000"}), "0=649 1=1000");
}

// accelerate takes the first of a class: 10 x 4 bytes here.
TEST(BalancedMemory, BiggestOfAClassCounts) {
  ModelBuilder model;
  model.Module("0", "Block").Param("0.w", 10).Module("1", "Block").Param("1.w", 100).NoSplit("Block");
  EXPECT_EQ(Balanced(model, {.limits = "0=1000 1=1000"}), "0=720 1=1000");
}

}  // namespace
}  // namespace keyload
