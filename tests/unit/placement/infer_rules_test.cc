// What accelerate's cases leave open, and where placement is meant to differ from it.

#include <gtest/gtest.h>

#include "server/base/strings.h"
#include "tests/unit/placement/model_builder.h"

namespace keyload {
namespace {

TEST(InferRules, CarriedBuffersCountWhereTheyGo) {
  ModelBuilder model;
  model.Module("block").Param("block.w", 10).Linear("block.lin", 4, 4).Buffer("block.buf", 6).Linear("out", 4, 4);
  EXPECT_EQ(Map(model, {.limits = "0=144 1=1000"}), "block.w:0 block.buf:0 block.lin:1 out:1");
  EXPECT_EQ(Map(model, {.limits = "0=143 1=1000"}), "/:1");
}

TEST(InferRules, DirectBufferWithoutDirectParametersGoesWithTheFirstChild) {
  ModelBuilder model;
  model.Module("block").Linear("block.a", 4, 4).Linear("block.b", 4, 4).Buffer("block.buf", 6).Linear("c", 4, 4);
  EXPECT_EQ(Map(model, {.limits = "0=184 1=1000"}), "block.buf:0 block.a:0 block.b:1 c:1");
  EXPECT_EQ(Map(model, {.limits = "0=183 1=1000"}), "/:1");
}

TEST(InferRules, DirectBufferFollowsAFirstChildThatIsSplitToo) {
  ModelBuilder model;
  model.Module("block").Module("block.inner").Linear("block.inner.a", 4, 4).Linear("block.inner.b", 4, 4);
  model.Buffer("block.inner.buf", 2).Linear("block.c", 4, 4).Buffer("block.buf", 6);
  EXPECT_EQ(Map(model, {.limits = "0=192 1=1000"}),
            "block.buf:0 block.inner.buf:0 block.inner.a:0 block.inner.b:1 block.c:1");
  EXPECT_EQ(Map(model, {.limits = "0=191 1=1000"}), "/:1");
}

TEST(InferRules, EveryTensorOfASplitModuleHasADevice) {
  ModelBuilder model;
  model.Module("block").Param("block.w", 10).Linear("block.lin", 4, 4).Buffer("block.buf", 6).Linear("out", 4, 4);
  EXPECT_EQ(DeviceOf(model, {.limits = "0=160 cpu=1000"}, "block.buf"), "0");
  EXPECT_EQ(DeviceOf(model, {.limits = "0=160 cpu=1000"}, "block.lin.bias"), "cpu");
}

// By substring "1" would also be found in "11.weight".
TEST(InferRules, TiesAreFoundByWholePrefix) {
  ModelBuilder model;
  model.Linear("1", 4, 4).Linear("11", 4, 4).Linear("2", 4, 4).Tie({"11.weight", "2.weight"});
  EXPECT_EQ(Map(model, {.limits = "0=160 1=1000"}), "1:0 11:1 2:1");
}

// a brings b along for the first group, so the partner of c is placed when c's turn comes. accelerate ends with an
// IndexError.
TEST(InferRules, PartnerThatIsPlacedAlreadyIsNoCrash) {
  ModelBuilder model;
  model.Linear("a", 4, 4).Module("b").Param("b.x", 16).Param("b.y", 16).Linear("c", 4, 4);
  model.Tie({"a.weight", "b.x"}).Tie({"b.y", "c.weight"});
  EXPECT_EQ(Map(model, {.limits = "0=208 1=1000"}), "a:0 b:0 c:1 c.weight:0");
  EXPECT_EQ(DeviceOf(model, {.limits = "0=208 1=1000"}, "c.weight"), "0");
  EXPECT_EQ(DeviceOf(model, {.limits = "0=208 1=1000"}, "c.bias"), "1");
}

// accelerate ends with an IndexError.
TEST(InferRules, PartnerThatIsADirectTensorOfTheRootComesAlong) {
  ModelBuilder model;
  model.Linear("a", 4, 4).Linear("b", 4, 4).Linear("c", 4, 4).Buffer("shared", 16).Tie({"a.weight", "shared"});
  EXPECT_EQ(Map(model, {.limits = "0=160 1=1000"}), "shared:0 a:0 b:1 c:1");
}

TEST(InferRules, ModulesWithoutTensorsAreMapped) {
  ModelBuilder model;
  model.Linear("a", 4, 4).Module("dropout", "Dropout").Linear("b", 4, 4).Linear("c", 4, 4);
  EXPECT_EQ(Map(model, {.limits = "0=160 1=1000"}), "a:0 dropout:0 b:1 c:1");
}

TEST(InferRules, WithoutModulesTheTreeComesFromTheNames) {
  ModelBuilder model;
  model.Param("h.0.w", 10).Param("h.0.b", 10).Param("h.1.w", 10).Param("h.1.b", 10).Param("head.w", 10);
  EXPECT_EQ(Map(model, {.limits = "0=160 1=1000"}), "h.0:0 h.1:1 head:1");
}

TEST(InferRules, FallbackWithTiesToThePartInHandEnds) {
  ModelBuilder model;
  model.Linear("a", 10, 10).Linear("c", 3, 3).Linear("b", 4, 4).Linear("d", 6, 6).Tie({"a.bias", "c.bias"});
  EXPECT_EQ(Map(model, {.limits = "0=600 1=5000", .fallback_allocation = true}), "a:1 c:1 b:0 d:1");
}

TEST(InferRules, FallbackTriesEachDeviceThatWouldStayEmpty) {
  ModelBuilder model;
  model.F().Linear("module.linear4", 4, 4);
  EXPECT_EQ(Map(model, {.limits = "0=256 cpu=256", .fallback_allocation = true}),
            "module.linear1:disk module.linear2:0 module.linear3:disk module.linear4:cpu");
}

TEST(InferRules, BiggestTensorOfTheRootKeepsItsRoomOnlyUntilItIsTaken) {
  ModelBuilder parameter;
  parameter.Param("w", 10).Linear("a", 1, 2);
  EXPECT_EQ(Map(parameter, {.limits = "0=56 1=1000"}), "/:0");
  ModelBuilder buffer;
  buffer.Linear("a", 1, 2).Buffer("q", 10);
  EXPECT_EQ(Map(buffer, {.limits = "0=56 1=1000"}), "/:0");
  EXPECT_EQ(Map(buffer, {.limits = "0=55 1=1000"}), "/:1");
}

// As in accelerate, and surprising: one byte more of room and it goes whole to the next device.
TEST(InferRules, ModuleThatFitsExactlyWithoutItsPartnerIsSplit) {
  ModelBuilder model;
  model.Module("x").Linear("x.a", 4, 4).Linear("x.b", 4, 4).Linear("y", 4, 4).Tie({"x.a.weight", "y.weight"});
  EXPECT_EQ(Map(model, {.limits = "0=176 1=1000"}), "/:0");
  EXPECT_EQ(Map(model, {.limits = "0=177 1=1000"}), "/:1");
}

TEST(InferRules, NoGpuAtAll) {
  EXPECT_EQ(Map(ModelBuilder().M(), {.limits = "cpu=1000"}), "/:cpu");
  EXPECT_EQ(Map(ModelBuilder().M(), {.limits = "disk=0"}), "/:disk");
}

// Splitting partner after partner must not look at all of them each time.
TEST(InferRules, ManyTiedModulesStayFast) {
  ModelBuilder model;
  std::vector<std::string> tied = {"first.weight"};
  model.Param("first.weight", 1).Param("first.bias", 1000);
  for (int i = 0; i < 20000; ++i) {
    model.Param(StrCat("m.", i, ".a.weight"), 1).Param(StrCat("m.", i, ".b.weight"), 1000);
    tied.push_back(StrCat("m.", i, ".a.weight"));
  }
  std::vector<uint32_t> group = {0};
  for (uint32_t i = 0; i < 20000; ++i) group.push_back(2 + 2 * i);
  PlacementModel input = model.model();
  input.tied_groups.push_back(group);
  const auto placement = Place(input, MakeSpec({.limits = "0=1000000 1=1000000000"}), EightGpus());
  ASSERT_TRUE(placement.ok()) << placement.status();
  EXPECT_EQ(placement->devices, (std::vector<std::string>{"cuda:0", "cuda:1"}));
}

}  // namespace
}  // namespace keyload
