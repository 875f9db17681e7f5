// What the service counts, where a client cannot see it exactly from outside.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/base/error.h"
#include "tests/unit/service/loader_node.h"

namespace keyload {
namespace {

using testing::HasSubstr;

class LoaderMetrics : public testing::Test {
 protected:
  LoaderMetrics() {
    WriteSafetensors(node_.dir() + "/model.safetensors",
                     {{.name = "a", .dtype = DType::kU8, .shape = {256}, .data = std::string(256, 1)}});
  }
  void ExpectLine(const std::string& line) { EXPECT_THAT(node_.metrics().Text(), HasSubstr("\n" + line + "\n")); }

  LoaderNode node_;
};

TEST_F(LoaderMetrics, RequestsThatJoinARunningLoadAreNoLoads) {
  LoadSpec spec = node_.Spec();
  spec.digest = "the same";
  node_.gpu().HoldCopies();
  const LoaderNode::Started first = node_.Start(spec);
  node_.gpu().WaitForCopiesStarted(1);
  const LoaderNode::Started second = node_.Start(spec);
  node_.gpu().ReleaseCopies();
  ASSERT_TRUE(first.observer->WaitForEnd().ok());
  ASSERT_TRUE(second.observer->WaitForEnd().ok());
  ExpectLine("keyload_load_requests_started_total 1");
  ExpectLine("keyload_load_requests_joined_total 1");
  ExpectLine("keyload_load_requests_total{outcome=\"complete\"} 1");
}

TEST_F(LoaderMetrics, ARequestThatComesTooLateIsAnError) {
  node_.service().Drain();
  EXPECT_EQ(ErrorReason(node_.Load(node_.Spec()).status()), Reason::kDraining);
  ExpectLine("keyload_load_requests_started_total 1");
  ExpectLine("keyload_load_requests_total{outcome=\"error\"} 1");
}

TEST_F(LoaderMetrics, AModelOfARunBeforeIsALoad) {
  LoadSpec spec = node_.Spec();
  spec.is_kept = true;
  ASSERT_TRUE(node_.Load(spec).ok());
  ExpectLine("keyload_load_requests_started_total 1");
  ExpectLine("keyload_load_requests_total{outcome=\"complete\"} 1");
}

TEST_F(LoaderMetrics, APlanIsNoLoad) {
  ASSERT_TRUE(node_.service().Plan(node_.Spec(), {}).ok());
  ExpectLine("keyload_load_requests_started_total 0");
  ExpectLine("keyload_load_duration_seconds_count{phase=\"total\"} 0");
}

TEST_F(LoaderMetrics, ASampleHasDevicesLoadsAndModels) {
  node_.gpu().HoldCopies();
  const LoaderNode::Started load = node_.Start(node_.Spec());
  node_.gpu().WaitForCopiesStarted(1);
  const auto count = [&](std::string_view state) {
    for (const auto& [name, number] : node_.service().SampleMetrics().models) {
      if (name == state) return static_cast<int>(number);
    }
    return -1;
  };
  EXPECT_EQ(node_.service().SampleMetrics().inflight_loads, 1);
  EXPECT_EQ(count("LOADING"), 1);
  node_.gpu().ReleaseCopies();
  ASSERT_TRUE(load.observer->WaitForEnd().ok());
  const Metrics::Sample sample = node_.service().SampleMetrics();
  EXPECT_EQ(sample.inflight_loads, 0);
  EXPECT_EQ(count("LOADING"), 0);
  EXPECT_EQ(count("RESIDENT"), 1);
  EXPECT_EQ(count("FAILED"), -1);
  ASSERT_EQ(sample.devices.size(), 2);
  for (const Metrics::DeviceMemory& device : sample.devices) {
    EXPECT_EQ(device.capacity, device.used + device.reserved + device.free) << device.device;
    EXPECT_EQ(device.used > 0, device.device == "cuda:0");
  }
}

}  // namespace
}  // namespace keyload
