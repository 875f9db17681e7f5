// Which load runs when: priorities, and loads that wait for memory that others use.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "server/base/error.h"
#include "tests/unit/service/loader_node.h"

namespace keyload {
namespace {

constexpr uint64_t kModelBytes = 1024;

class LoaderServiceAdmission : public testing::Test {
 protected:
  // Room for one model, and for half of another.
  LoaderServiceAdmission() : node_({.gpu_bytes = kModelBytes * 3 / 2}) {
    WriteSafetensors(node_.dir() + "/model.safetensors",
                     {{.name = "a", .dtype = DType::kU8, .shape = {kModelBytes}, .data = ""}});
  }
  LoadSpec Waiting(const std::string& model, int32_t priority = 0) {
    LoadSpec spec = node_.Spec(model);
    spec.digest = "asks for " + model;
    spec.wait_memory = absl::InfiniteDuration();
    spec.priority = priority;
    return spec;
  }
  void WaitForMemoryWaiters(size_t count) {
    while (node_.loads().waiting_for_memory() != count) std::this_thread::yield();
  }
  MemoryState Memory() { return node_.gpu().account().state(); }

  LoaderNode node_;
};

TEST_F(LoaderServiceAdmission, ALoadWaitsForMemoryThatAnUnloadGivesBack) {
  ASSERT_TRUE(node_.Load(node_.Spec("first")).ok());
  const LoaderNode::Started second = node_.Start(Waiting("second"));
  WaitForMemoryWaiters(1);
  EXPECT_EQ(node_.registry().Info("second")->state, ModelState::kLoading);
  ASSERT_TRUE(node_.Unload("first").ok());
  const absl::StatusOr<LoadReport> report = second.observer->WaitForEnd();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kComplete);
  EXPECT_THAT(second.observer->events(), testing::ElementsAre("accepted", "planned", "end"));
  absl::Duration sum;
  for (const Phase& phase : report->phases) sum += phase.duration;
  EXPECT_EQ(sum, report->total);
  EXPECT_EQ(Memory().used, kModelBytes);
  EXPECT_EQ(Memory().reserved, 0);
}

TEST_F(LoaderServiceAdmission, EvictingGivesMemoryToo) {
  ASSERT_TRUE(node_.Load(node_.Spec("m")).ok());
  const LoaderNode::Started second = node_.Start(Waiting("second"));
  WaitForMemoryWaiters(1);
  ASSERT_TRUE(node_.Evict({}).ok());
  EXPECT_EQ(second.observer->WaitForEnd()->outcome, Outcome::kComplete);
}

TEST(LoaderServiceMemory, ACancelledLoadGivesMemoryToo) {
  LoaderNode node({.gpu_bytes = kModelBytes, .load_threads = 2});
  WriteSafetensors(node.dir() + "/model.safetensors",
                   {{.name = "a", .dtype = DType::kU8, .shape = {kModelBytes}, .data = ""}});
  node.gpu().HoldCopies();
  const LoaderNode::Started first = node.Start(node.Spec("first"));
  node.gpu().WaitForCopiesStarted(1);
  LoadSpec spec = node.Spec("second");
  spec.wait_memory = absl::InfiniteDuration();
  const LoaderNode::Started second = node.Start(spec);
  while (node.loads().waiting_for_memory() != 1) std::this_thread::yield();
  first.ticket->Cancel();
  node.gpu().ReleaseCopies();
  EXPECT_EQ(first.observer->WaitForEnd()->outcome, Outcome::kCancelled);
  EXPECT_EQ(second.observer->WaitForEnd()->outcome, Outcome::kComplete);
}

TEST_F(LoaderServiceAdmission, WithoutAWaitALoadThatDoesNotFitFailsAtOnce) {
  ASSERT_TRUE(node_.Load(node_.Spec("first")).ok());
  const absl::StatusOr<LoadReport> report = node_.Load(node_.Spec("second"));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kFailed);
  EXPECT_EQ(ErrorReason(report->error), Reason::kDeviceOutOfMemory);
}

TEST_F(LoaderServiceAdmission, WhatIsLargerThanTheDeviceFailsAtOnceEitherWay) {
  WriteSafetensors(node_.dir() + "/model.safetensors",
                   {{.name = "a", .dtype = DType::kU8, .shape = {2 * kModelBytes}, .data = ""}});
  const absl::StatusOr<LoadReport> report = node_.Load(Waiting("large"));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(ErrorReason(report->error), Reason::kDeviceOutOfMemory);
}

TEST_F(LoaderServiceAdmission, AWaitForMemoryCanBeCancelled) {
  ASSERT_TRUE(node_.Load(node_.Spec("first")).ok());
  const LoaderNode::Started second = node_.Start(Waiting("second"));
  WaitForMemoryWaiters(1);
  second.ticket->Cancel();
  const absl::StatusOr<LoadReport> report = second.observer->WaitForEnd();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kCancelled);
  EXPECT_EQ(ErrorReason(node_.registry().Info("second").status()), Reason::kModelNotFound);
  EXPECT_EQ(node_.service().active_loads(), 0);
}

TEST_F(LoaderServiceAdmission, AJoinerWithMoreTimeKeepsTheLoadWaiting) {
  ASSERT_TRUE(node_.Load(node_.Spec("first")).ok());
  LoadSpec spec = Waiting("second");
  spec.wait_memory = absl::Minutes(1);
  const LoaderNode::Started second = node_.Start(spec);
  WaitForMemoryWaiters(1);
  const LoaderNode::Started joined = node_.Start(Waiting("second", 7));
  const auto load = (*node_.service().ListLoads("", 10)).back();
  EXPECT_EQ(load->priority(), 7);
  EXPECT_GT(load->memory_wait(), absl::Hours(1));
  ASSERT_TRUE(node_.Unload("first").ok());
  EXPECT_EQ(joined.observer->WaitForEnd()->outcome, Outcome::kComplete);
  EXPECT_EQ(second.observer->WaitForEnd()->outcome, Outcome::kComplete);
}

TEST_F(LoaderServiceAdmission, AQueuedLoadThatIsCancelledIsToldAtOnce) {
  node_.gpu().HoldCopies();
  const LoaderNode::Started running = node_.Start(node_.Spec("running"));
  node_.gpu().WaitForCopiesStarted(1);
  const LoaderNode::Started queued = node_.Start(node_.Spec("queued"));
  queued.ticket->Cancel();
  EXPECT_EQ(ErrorReason(queued.observer->WaitForEnd().status()), Reason::kLoadCancelled);
  EXPECT_EQ(node_.service().active_loads(), 1);
  node_.gpu().ReleaseCopies();
  EXPECT_TRUE(running.observer->WaitForEnd().ok());
}

TEST_F(LoaderServiceAdmission, AnUrgentLoadGoesBeforeThoseThatCameFirst) {
  node_.gpu().HoldCopies();
  const LoaderNode::Started running = node_.Start(node_.Spec("running"));
  node_.gpu().WaitForCopiesStarted(1);
  const LoaderNode::Started plain = node_.Start(node_.Spec("plain"));
  LoadSpec spec = node_.Spec("urgent");
  spec.priority = 1;
  const LoaderNode::Started urgent = node_.Start(spec);
  running.ticket->Cancel();  // and is gone: there is room for one model
  node_.gpu().ReleaseCopies();
  EXPECT_EQ(urgent.observer->WaitForEnd()->outcome, Outcome::kComplete);
  EXPECT_EQ(plain.observer->WaitForEnd()->outcome, Outcome::kFailed) << "it came after the urgent one";
}

}  // namespace
}  // namespace keyload
