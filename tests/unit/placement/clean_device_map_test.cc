#include "server/placement/clean_device_map.h"

#include <gtest/gtest.h>

#include "server/base/strings.h"

namespace keyload {
namespace {

using Entries = std::vector<std::pair<std::string, int>>;

// Cleans a map whose entries are the tensors of a model.
std::string Clean(const Entries& entries) {
  PlacementModel model;
  for (const auto& [name, device] : entries) model.tensors.push_back({.name = name});
  const auto tree = ModuleTree::Create(model);
  if (!tree.ok()) return "error";
  std::vector<int32_t> device_of(tree->items().size(), -1);
  for (uint32_t i = 0; i < entries.size(); ++i) device_of[tree->ItemOf(i)] = entries[i].second;
  std::string text;
  for (const TreeMapEntry& entry : CleanDeviceMap(*tree, device_of)) {
    const std::string_view name = (*tree)[entry.item].name;
    StrAppend(&text, text.empty() ? "" : " ", name.empty() ? "/" : name, ":", entry.device);
  }
  return text;
}

TEST(CleanDeviceMap, OneDeviceForAll) { EXPECT_EQ(Clean({{"a", 0}, {"b", 0}, {"c", 0}}), "/:0"); }

TEST(CleanDeviceMap, OneDevicePerModule) {
  EXPECT_EQ(Clean({{"a.x", 0}, {"a.y", 0}, {"b.x", 1}, {"b.y", 1}, {"c", 1}}), "c:1 a:0 b:1");
}

TEST(CleanDeviceMap, TwoLevels) {
  EXPECT_EQ(Clean({{"a.x", 0}, {"a.y", 0}, {"b.x.0", 1}, {"b.x.1", 1}, {"b.y.0", 2}, {"b.y.1", 2}, {"c", 2}}),
            "c:2 a:0 b.x:1 b.y:2");
}

TEST(CleanDeviceMap, SingleEntryKeepsItsName) { EXPECT_EQ(Clean({{"a.x", 0}}), "a.x:0"); }

TEST(CleanDeviceMap, NameThatIsTensorAndModule) {
  EXPECT_EQ(Clean({{"a.w", 0}, {"a.w.scale", 0}, {"b", 1}}), "b:1 a:0");
  EXPECT_EQ(Clean({{"a.w", 0}, {"a.w.scale", 1}}), "a.w:0 a.w.scale:1");
}

TEST(CleanDeviceMap, EntryBelowAnotherOfADifferentDeviceStays) {
  PlacementModel model;
  model.tensors = {{.name = "a.x"}, {.name = "a.y"}};
  const auto tree = ModuleTree::Create(model);
  ASSERT_TRUE(tree.ok());
  const uint32_t module = (*tree)[tree->ItemOf(0)].parent;
  std::vector<int32_t> device_of(tree->items().size(), -1);
  device_of[module] = 1;
  device_of[tree->ItemOf(1)] = 0;
  EXPECT_EQ(CleanDeviceMap(*tree, device_of).size(), 2u);
}

// a.b.z goes where a goes, so a.b is not on the device of the two entries below it.
TEST(CleanDeviceMap, EntriesBelowAnotherDoNotSpeakForWhatHasNone) {
  PlacementModel model;
  model.tensors = {{.name = "a.b.x"}, {.name = "a.b.y"}, {.name = "a.b.z"}, {.name = "a.c"}};
  const auto tree = ModuleTree::Create(model);
  ASSERT_TRUE(tree.ok());
  std::vector<int32_t> device_of(tree->items().size(), -1);
  const uint32_t b = (*tree)[tree->ItemOf(0)].parent;
  device_of[(*tree)[b].parent] = 1;
  device_of[tree->ItemOf(0)] = 2;
  device_of[tree->ItemOf(1)] = 2;
  const std::vector<TreeMapEntry> map = CleanDeviceMap(*tree, device_of);
  ASSERT_EQ(map.size(), 3u);
  EXPECT_EQ((*tree)[map[1].item].name, "a.b.x");
  EXPECT_EQ((*tree)[map[2].item].name, "a.b.y");
}

}  // namespace
}  // namespace keyload
