#include "server/service/device_map_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/base/error.h"

namespace keyload {
namespace {

NamedDeviceMap Map(const std::string& name, const std::string& policy = "auto", const std::string& etag = "") {
  return {.name = name, .spec = {.policy = policy}, .no_split_classes = {}, .etag = etag};
}

std::vector<std::string> Names(const DeviceMapTable& table) {
  std::vector<std::string> names;
  for (const NamedDeviceMap& map : table.List("", 1000)) names.push_back(map.name);
  return names;
}

TEST(DeviceMapTable, KeepsMapsByName) {
  DeviceMapTable table;
  ASSERT_TRUE(table.Set(Map("b", "balanced")).ok());
  ASSERT_TRUE(table.Set(Map("a")).ok());
  EXPECT_EQ(table.Get("b")->spec.policy, "balanced");
  EXPECT_THAT(Names(table), testing::ElementsAre("a", "b"));
  EXPECT_TRUE(table.Delete("a", "").ok());
  EXPECT_EQ(ErrorReason(table.Get("a").status()), Reason::kDeviceMapNotFound);
  EXPECT_EQ(ErrorReason(table.Delete("a", "")), Reason::kDeviceMapNotFound);
}

TEST(DeviceMapTable, AnEtagGuardsAgainstLostChanges) {
  DeviceMapTable table;
  const std::string first = table.Set(Map("m"))->etag;
  const std::string second = table.Set(Map("m", "sequential", first))->etag;
  EXPECT_NE(second, first);
  EXPECT_EQ(ErrorReason(table.Set(Map("m", "cpu", first)).status()), Reason::kDeviceMapChanged);
  EXPECT_EQ(ErrorReason(table.Delete("m", first)), Reason::kDeviceMapChanged);
  EXPECT_EQ(table.Get("m")->spec.policy, "sequential");
  EXPECT_TRUE(table.Set(Map("m", "cpu")).ok()) << "without an etag, whatever is there";
  EXPECT_EQ(ErrorReason(table.Set(Map("new", "cpu", second)).status()), Reason::kDeviceMapNotFound);
  EXPECT_TRUE(table.Delete("m", table.Get("m")->etag).ok());
}

TEST(DeviceMapTable, RefusesWhatCanNeverBeUsed) {
  DeviceMapTable table;
  for (const std::string& name : {std::string(), std::string("a/b"), std::string(129, 'x')}) {
    EXPECT_EQ(ErrorReason(table.Set(Map(name)).status()), Reason::kBadRequest) << name;
  }
  NamedDeviceMap both = Map("both");
  both.spec.entries = {{"", "cpu"}};
  EXPECT_EQ(ErrorReason(table.Set(both).status()), Reason::kDeviceMapInvalid);
  EXPECT_TRUE(table.List("", 1000).empty());
}

TEST(DeviceMapTable, IsBounded) {
  DeviceMapTable table;
  NamedDeviceMap large = Map("large", "");
  large.spec.entries = {{std::string(1 << 20, 'a'), "cpu"}};
  ASSERT_TRUE(table.Set(large).ok());
  ASSERT_TRUE(table.Set(large).ok()) << "in its own place";
  large.name = "second";
  EXPECT_EQ(ErrorReason(table.Set(large).status()), Reason::kDeviceMapsFull);
  ASSERT_TRUE(table.Delete("large", "").ok());
  EXPECT_TRUE(table.Set(large).ok()) << "room that was given back";
  for (int i = 0; i < 999; ++i) ASSERT_TRUE(table.Set(Map("m" + std::to_string(i))).ok());
  EXPECT_EQ(ErrorReason(table.Set(Map("one-more")).status()), Reason::kDeviceMapsFull);
}

}  // namespace
}  // namespace keyload
