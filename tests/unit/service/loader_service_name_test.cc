// One name, several requests: joining, refusing, queueing, draining.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/base/error.h"
#include "server/base/retry.h"
#include "tests/unit/service/loader_node.h"

namespace keyload {
namespace {

using testing::ElementsAre;

void WriteSmall(const LoaderNode& node) {
  WriteSafetensors(node.dir() + "/model.safetensors", {{.name = "a", .dtype = DType::kF32, .shape = {64}, .data = ""}});
}

TEST(LoaderServiceName, TheSameRequestAgainJoinsTheModel) {
  LoaderNode node;
  WriteSmall(node);
  const absl::StatusOr<LoadReport> first = node.Load(node.Spec());
  const LoaderNode::Started second = node.Start(node.Spec());
  const absl::StatusOr<LoadReport> report = second.observer->WaitForEnd();
  ASSERT_TRUE(first.ok() && report.ok()) << report.status();
  EXPECT_EQ(report->generation, first->generation);
  EXPECT_EQ(report->load, first->load);
  EXPECT_EQ(node.readers_made(), 1);
  EXPECT_THAT(second.observer->events(), ElementsAre("joined", "end"));
}

TEST(LoaderServiceName, AJoiningRequestWithLowerLimitsIsRejected) {
  LoaderNode node;
  WriteSmall(node);
  LoadSpec spec = node.Spec();
  spec.expected.manifest = ManifestOf({"a", "b"}, {64});
  ASSERT_TRUE(node.Load(spec).ok());
  spec.limits.max_missing = 0;
  const absl::StatusOr<LoadReport> report = node.Load(spec);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kRejected);
  EXPECT_EQ(node.registry().Info("m")->model->report().outcome, Outcome::kIncomplete);
}

TEST(LoaderServiceName, AnotherRequestForALoadedNameIsRefused) {
  LoaderNode node;
  WriteSmall(node);
  ASSERT_TRUE(node.Load(node.Spec()).ok());
  LoadSpec other = node.Spec();
  other.fingerprint = "another";
  const LoaderNode::Started load = node.Start(other);
  EXPECT_EQ(ErrorReason(load.observer->WaitForEnd().status()), Reason::kModelExists);
  EXPECT_THAT(load.observer->events(), ElementsAre("end"));
  EXPECT_TRUE(node.registry().Use("m").ok());
}

TEST(LoaderServiceName, IfExistsFailRefusesTheSameRequestToo) {
  LoaderNode node;
  WriteSmall(node);
  ASSERT_TRUE(node.Load(node.Spec()).ok());
  LoadSpec again = node.Spec();
  again.if_exists = IfExists::kFail;
  EXPECT_EQ(ErrorReason(node.Load(again).status()), Reason::kModelExists);
}

TEST(LoaderServiceName, ANameThatIsLoadingIsBusy) {
  LoaderNode node;
  WriteSmall(node);
  node.gpu().HoldCopies();
  const LoaderNode::Started first = node.Start(node.Spec());
  node.gpu().WaitForCopiesStarted(1);
  EXPECT_EQ(ErrorReason(node.Load(node.Spec()).status()), Reason::kModelBusy);
  node.gpu().ReleaseCopies();
  EXPECT_TRUE(first.observer->WaitForEnd().ok());
}

TEST(LoaderServiceName, UnloadedAndLoadedAgainItHasAnotherGeneration) {
  LoaderNode node;
  WriteSmall(node);
  const absl::StatusOr<LoadReport> first = node.Load(node.Spec());
  const absl::StatusOr<ModelRegistry::Unloaded> unloaded = node.Unload("m");
  ASSERT_TRUE(first.ok() && unloaded.ok());
  EXPECT_TRUE(unloaded->was_loaded);
  EXPECT_EQ(unloaded->freed_bytes, 256);
  EXPECT_EQ(node.gpu().account().state().used, 0);
  const absl::StatusOr<LoadReport> second = node.Load(node.Spec());
  ASSERT_TRUE(second.ok());
  EXPECT_GT(second->generation, first->generation);
}

// Whoever hears the end may use the name: the observer loads again from inside OnEnd.
class LoadAgain : public RecordingObserver {
 public:
  LoadAgain(LoaderNode& node, std::shared_ptr<RecordingObserver> next) : node_(node), next_(std::move(next)) {}
  void OnEnd(absl::StatusOr<LoadReport> result) override {
    node_.service().StartLoad(node_.Spec(), Deadline::Never(), next_);
    RecordingObserver::OnEnd(std::move(result));
  }

 private:
  LoaderNode& node_;
  std::shared_ptr<RecordingObserver> next_;
};

TEST(LoaderServiceName, TheNameIsFreeWhenAFailureIsTold) {
  LoaderNode node;
  const auto next = std::make_shared<RecordingObserver>();
  node.service().StartLoad(node.Spec(), Deadline::Never(), std::make_shared<LoadAgain>(node, next));
  EXPECT_EQ(ErrorReason(next->WaitForEnd().status()), Reason::kCheckpointNotFound);
}

TEST(LoaderServiceName, AFullQueueRefusesAndFreesTheName) {
  LoaderNode node({.load_threads = 1, .load_queue = 1});
  WriteSmall(node);
  node.gpu().HoldCopies();
  const LoaderNode::Started running = node.Start(node.Spec("running"));
  node.gpu().WaitForCopiesStarted(1);
  const LoaderNode::Started queued = node.Start(node.Spec("queued"));
  const LoaderNode::Started refused = node.Start(node.Spec("refused"));
  const absl::Status full = refused.observer->WaitForEnd().status();
  EXPECT_EQ(ErrorReason(full), Reason::kLoadQueueFull);
  EXPECT_EQ(ErrorDetails(full).at(std::string(kRetryDelay)), "1");
  EXPECT_EQ(ErrorReason(node.registry().Info("refused").status()), Reason::kModelNotFound);
  EXPECT_EQ(node.service().active_loads(), 2);
  node.gpu().ReleaseCopies();
  EXPECT_TRUE(running.observer->WaitForEnd().ok());
  EXPECT_TRUE(queued.observer->WaitForEnd().ok());
}

TEST(LoaderServiceName, TwoLoadsRunAtATimeWithTwoThreads) {
  LoaderNode node({.load_threads = 2});
  WriteSmall(node);
  node.gpu().HoldCopies();
  const LoaderNode::Started first = node.Start(node.Spec("first"));
  const LoaderNode::Started second = node.Start(node.Spec("second"));
  node.gpu().WaitForCopiesStarted(2);
  node.gpu().ReleaseCopies();
  EXPECT_TRUE(first.observer->WaitForEnd().ok());
  EXPECT_TRUE(second.observer->WaitForEnd().ok());
}

TEST(LoaderServiceName, DrainingRefusesLoadsAndPlans) {
  LoaderNode node;
  WriteSmall(node);
  node.service().Drain();
  EXPECT_EQ(ErrorReason(node.Load(node.Spec()).status()), Reason::kDraining);
  EXPECT_EQ(ErrorReason(node.service().Plan(node.Spec(), {}).status()), Reason::kDraining);
}

TEST(LoaderServiceName, DrainingLetsARunningLoadFinish) {
  LoaderNode node;
  WriteSmall(node);
  node.gpu().HoldCopies();
  const LoaderNode::Started load = node.Start(node.Spec());
  node.gpu().WaitForCopiesStarted(1);
  node.service().Drain();
  node.gpu().ReleaseCopies();
  const absl::StatusOr<LoadReport> report = load.observer->WaitForEnd();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kComplete);
}

TEST(LoaderServiceName, ADaemonMayEndWithModelsLoaded) {
  LoaderNode node;
  WriteSmall(node);
  ASSERT_TRUE(node.Load(node.Spec("a")).ok());
  ASSERT_TRUE(node.Load(node.Spec("b")).ok());
  ASSERT_TRUE(node.Load(node.Spec("c")).ok());
}

}  // namespace
}  // namespace keyload
