// Device maps that are kept by name, through a real channel.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/rpc/loader_server.h"

namespace keyload {
namespace {

class DeviceMapCalls : public testing::Test {
 protected:
  DeviceMapCalls() { server_.WriteSmall(); }

  grpc::Status Set(const v1::NamedDeviceMap& map, v1::NamedDeviceMap* kept = nullptr) {
    TestContext context;
    v1::SetDeviceMapRequest request;
    *request.mutable_device_map() = map;
    v1::SetDeviceMapResponse response;
    const grpc::Status status = server_.stub().SetDeviceMap(&context, request, &response);
    if (kept != nullptr) *kept = response.device_map();
    return status;
  }
  static v1::NamedDeviceMap Map(const std::string& name, const std::string& policy) {
    v1::NamedDeviceMap map;
    map.set_name(name);
    map.mutable_spec()->set_policy(policy);
    return map;
  }
  grpc::Status Plan(const v1::LoadSpec& spec, v1::LoadReport& report) {
    TestContext context;
    v1::PlanLoadRequest request;
    *request.mutable_spec() = spec;
    v1::PlanLoadResponse response;
    const grpc::Status status = server_.stub().PlanLoad(&context, request, &response);
    report = response.report();
    return status;
  }

  LoaderServer server_;
};

TEST_F(DeviceMapCalls, AMapComesBackAsItWasSet) {
  v1::NamedDeviceMap map = Map("m", "");
  (*map.mutable_spec()->mutable_entries())["layers.0"] = "cuda:0";
  (*map.mutable_spec()->mutable_max_memory())["cuda:0"] = 1 << 20;
  map.mutable_spec()->add_no_split_classes("Block");
  map.mutable_spec()->set_offload_buffers(true);
  v1::NamedDeviceMap kept;
  ASSERT_TRUE(Set(map, &kept).ok());
  map.set_etag(kept.etag());
  EXPECT_EQ(kept.DebugString(), map.DebugString());
  TestContext context;
  v1::GetDeviceMapRequest request;
  request.set_name("m");
  v1::GetDeviceMapResponse response;
  ASSERT_TRUE(server_.stub().GetDeviceMap(&context, request, &response).ok());
  EXPECT_EQ(response.device_map().DebugString(), map.DebugString());
}

TEST_F(DeviceMapCalls, MapsAreListedAndDeleted) {
  ASSERT_TRUE(Set(Map("b", "cpu")).ok());
  ASSERT_TRUE(Set(Map("a", "cpu")).ok());
  TestContext delete_context;
  v1::DeleteDeviceMapRequest request;
  request.set_name("b");
  v1::DeleteDeviceMapResponse deleted;
  ASSERT_TRUE(server_.stub().DeleteDeviceMap(&delete_context, request, &deleted).ok());
  TestContext context;
  v1::ListDeviceMapsResponse list;
  ASSERT_TRUE(server_.stub().ListDeviceMaps(&context, {}, &list).ok());
  ASSERT_EQ(list.device_maps_size(), 1);
  EXPECT_EQ(list.device_maps(0).name(), "a");
}

TEST_F(DeviceMapCalls, ListedMapsComeInPagesInOrderOfTheirNames) {
  for (const char* name : {"c", "a", "b"}) ASSERT_TRUE(Set(Map(name, "cpu")).ok());
  v1::ListDeviceMapsRequest request;
  request.set_page_size(2);
  std::vector<std::string> names;
  std::vector<int> sizes;
  do {
    TestContext context;
    v1::ListDeviceMapsResponse page;
    ASSERT_TRUE(server_.stub().ListDeviceMaps(&context, request, &page).ok());
    for (const v1::NamedDeviceMap& map : page.device_maps()) names.push_back(map.name());
    sizes.push_back(page.device_maps_size());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  EXPECT_EQ(names, (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(sizes, (std::vector<int>{2, 1}));
}

TEST_F(DeviceMapCalls, APageOfLargeMapsEndsEarly) {
  for (const char* name : {"a", "b", "c"}) {
    v1::NamedDeviceMap map = Map(name, "");
    for (int i = 0; i < 6; ++i) {
      (*map.mutable_spec()->mutable_entries())[std::string(100'000, 'm') + std::to_string(i)] = "cpu";
    }
    ASSERT_TRUE(Set(map).ok());
  }
  TestContext context;
  v1::ListDeviceMapsResponse page;
  ASSERT_TRUE(server_.stub().ListDeviceMaps(&context, {}, &page).ok());
  EXPECT_EQ(page.device_maps_size(), 1);
  EXPECT_EQ(page.next_page_token(), "a");
}

TEST_F(DeviceMapCalls, AStaleEtagIsAborted) {
  v1::NamedDeviceMap kept;
  ASSERT_TRUE(Set(Map("m", "cpu"), &kept).ok());
  ASSERT_TRUE(Set(Map("m", "auto")).ok());
  const grpc::Status status = Set(kept);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(InfoOf(status).reason(), "DEVICE_MAP_CHANGED");
}

TEST_F(DeviceMapCalls, WhatBelongsToARequestIsRefused) {
  v1::NamedDeviceMap map = Map("m", "cpu");
  map.mutable_spec()->set_name("other");
  EXPECT_EQ(InfoOf(Set(map)).metadata().at("field"), "device_map.spec.name");
  map = Map("m", "cpu");
  map.mutable_spec()->add_plan_for();
  EXPECT_EQ(InfoOf(Set(map)).metadata().at("field"), "device_map.spec.plan_for");
}

TEST_F(DeviceMapCalls, ARequestUsesAMapByName) {
  ASSERT_TRUE(Set(Map("gpu", "cuda:0")).ok());
  v1::LoadSpec spec = server_.Spec();
  spec.clear_device_map();
  spec.mutable_device_map()->set_name("gpu");
  v1::LoadReport report;
  ASSERT_TRUE(Plan(spec, report).ok());
  ASSERT_EQ(report.device_map_size(), 1);
  EXPECT_EQ(report.device_map(0).device(), "cuda:0");
  spec.mutable_device_map()->set_policy("cpu");
  ASSERT_TRUE(Plan(spec, report).ok());
  EXPECT_EQ(report.device_map(0).device(), "cpu") << "what the request says overrides it";
  spec.mutable_device_map()->set_name("none");
  EXPECT_EQ(InfoOf(Plan(spec, report)).reason(), "DEVICE_MAP_NOT_FOUND");
}

TEST_F(DeviceMapCalls, OneDeviceDropsTheLimitsOfAKeptPolicy) {
  v1::NamedDeviceMap map = Map("limited", "auto");
  (*map.mutable_spec()->mutable_max_memory())["cuda:0"] = 1 << 20;
  ASSERT_TRUE(Set(map).ok());
  v1::LoadSpec spec = server_.Spec();
  spec.clear_device_map();
  spec.mutable_device_map()->set_name("limited");
  spec.mutable_device_map()->set_policy("cpu");
  v1::LoadReport report;
  const grpc::Status status = Plan(spec, report);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(report.device_map(0).device(), "cpu");
}

TEST_F(DeviceMapCalls, ItIsTheSameAsWrittenOut) {
  ASSERT_TRUE(Set(Map("gpu", "cuda:0")).ok());
  const v1::LoadReport written = server_.Load(server_.Spec());
  v1::LoadSpec spec = server_.Spec();
  spec.clear_device_map();
  spec.mutable_device_map()->set_name("gpu");
  EXPECT_EQ(server_.Load(spec).load(), written.load()) << "the resident model answers";
  ASSERT_TRUE(Set(Map("gpu", "cpu")).ok());
  TestContext context;
  v1::LoadModelRequest request;
  *request.mutable_spec() = spec;
  v1::LoadModelResponse response;
  EXPECT_EQ(InfoOf(server_.stub().LoadModel(&context, request, &response)).reason(), "MODEL_EXISTS")
      << "the map is another one now";
}

}  // namespace
}  // namespace keyload
