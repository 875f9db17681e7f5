#include "server/placement/module_tree.h"

#include <gtest/gtest.h>

#include "server/base/error.h"
#include "server/base/strings.h"
#include "tests/unit/placement/model_builder.h"

namespace keyload {
namespace {

// "name=bytes" of the modules in their order, the root as "/".
std::string Sizes(const ModelBuilder& builder) {
  const auto tree = ModuleTree::Create(builder.model());
  if (!tree.ok()) return std::string(ReasonName(ErrorReason(tree.status())));
  std::string text;
  for (const TreeItem& item : tree->items()) {
    if (!item.is_module()) continue;
    StrAppend(&text, text.empty() ? "" : " ", item.name.empty() ? "/" : item.name, "=", item.bytes);
  }
  return text;
}

TEST(ModuleTree, SizesAddUpOverPrefixes) {
  EXPECT_EQ(Sizes(ModelBuilder().M()), "/=236 linear1=64 batchnorm=72 linear2=100");
  EXPECT_EQ(Sizes(ModelBuilder().M().Half()), "/=122 linear1=32 batchnorm=40 linear2=50");
}

TEST(ModuleTree, BuffersCount) {
  EXPECT_EQ(Sizes(ModelBuilder().M().Buffer("linear1.extra", 100).Buffer("extra", 151)),
            "/=1240 linear1=464 batchnorm=72 linear2=100");
  const auto tree = ModuleTree::Create(ModelBuilder().M().model());
  EXPECT_EQ(tree.ok() ? (*tree)[0].buffer_bytes : 0, 40u);
}

TEST(ModuleTree, TiedBytesCountAtTheFirstMember) {
  EXPECT_EQ(Sizes(ModelBuilder().M().Tie({"linear2.weight", "linear1.weight"})),
            "/=156 linear1=64 batchnorm=72 linear2=20");
}

TEST(ModuleTree, IntermediateModulesAreInserted) {
  ModelBuilder model;
  model.Module("a.b.c", "Block").Param("a.b.c.w", 1).Param("d.w", 2);
  EXPECT_EQ(Sizes(model), "/=12 a=4 a.b=4 a.b.c=4 d=8");
}

TEST(ModuleTree, ModulesKeepRegistrationOrderNotTensorOrder) {
  ModelBuilder model;
  model.Module("second").Module("first").Param("first.w", 1).Param("second.w", 2);
  EXPECT_EQ(Sizes(model), "/=12 second=8 first=4");
}

TEST(ModuleTree, OrderWithinAModuleIsParametersBuffersModules) {
  ModelBuilder model;
  model.Param("m.child.w", 1).Buffer("m.b", 1).Param("m.p", 1);
  const auto tree = ModuleTree::Create(model.model());
  ASSERT_TRUE(tree.ok());
  std::string order;
  for (const TreeItem& item : tree->items()) StrAppend(&order, item.name, " ");
  EXPECT_EQ(order, " m m.p m.b m.child m.child.w ");
  EXPECT_EQ((*tree)[1].end, 6u);
  EXPECT_EQ((*tree)[4].end, 6u);
}

TEST(ModuleTree, NameThatIsTensorAndModuleBelongsToTheModule) {
  ModelBuilder model;
  model.Param("l.weight", 2).Param("l.weight.absmax", 1);
  EXPECT_EQ(Sizes(model), "/=12 l=12 l.weight=12");
}

std::string Deep(size_t components) {
  std::string name = "a";
  for (size_t i = 1; i < components; ++i) name += ".a";
  return name;
}

TEST(ModuleTree, DepthIsBounded) {
  ModelBuilder deep;
  deep.Param(Deep(kMaxNameDepth), 1);
  EXPECT_TRUE(ModuleTree::Create(deep.model()).ok());
  ModelBuilder too_deep;
  too_deep.Param(Deep(kMaxNameDepth + 1), 1);
  EXPECT_EQ(Sizes(too_deep), "DEVICE_MAP_INVALID");
  EXPECT_EQ(Sizes(ModelBuilder().Module(Deep(kMaxNameDepth + 1))), "DEVICE_MAP_INVALID");
}

TEST(ModuleTree, SizesThatOverflowAreRefused) {
  ModelBuilder model;
  model.Param("a", 1).Param("b", 1).Resize("a", 1ull << 63).Resize("b", 1ull << 63);
  EXPECT_EQ(Sizes(model), "DEVICE_MAP_INVALID");
}

TEST(ModuleTree, TiedGroupOutOfRangeIsRefused) {
  ModelBuilder builder;
  PlacementModel model = builder.M().model();
  model.tied_groups = {{0, 99}};
  EXPECT_EQ(ErrorReason(ModuleTree::Create(model).status()), Reason::kInternal);
}

}  // namespace
}  // namespace keyload
