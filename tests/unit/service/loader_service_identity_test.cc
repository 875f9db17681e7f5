// Loads as things with an identity: the same request again, request ids, detached loads, replacing.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/base/error.h"
#include "tests/unit/service/loader_node.h"

namespace keyload {
namespace {

using testing::ElementsAre;

class LoaderServiceIdentity : public testing::Test {
 protected:
  LoaderServiceIdentity() { Write(1); }
  // One tensor whose bytes are all `mark`.
  void Write(char mark) {
    WriteSafetensors(node_.dir() + "/model.safetensors",
                     {{.name = "a", .dtype = DType::kU8, .shape = {256}, .data = std::string(256, mark)}});
  }
  LoadSpec Spec(const std::string& request_id = "") {
    LoadSpec spec = node_.Spec();
    spec.digest = "asks for m";
    spec.request_id = request_id;
    return spec;
  }
  // A load whose copies are held.
  LoaderNode::Started StartHeld(const LoadSpec& spec) {
    node_.gpu().HoldCopies();
    LoaderNode::Started started = node_.Start(spec);
    node_.gpu().WaitForCopiesStarted(1);
    return started;
  }

  LoaderNode node_;
};

TEST_F(LoaderServiceIdentity, TheSameRequestsAtOnceAreOneLoad) {
  std::vector<LoaderNode::Started> loads = {StartHeld(Spec())};
  for (int i = 1; i < 32; ++i) loads.push_back(node_.Start(Spec(i % 2 == 0 ? "" : "id-" + std::to_string(i))));
  EXPECT_EQ(node_.service().active_loads(), 1);
  node_.gpu().ReleaseCopies();
  const absl::StatusOr<LoadReport> first = loads[0].observer->WaitForEnd();
  ASSERT_TRUE(first.ok()) << first.status();
  for (const LoaderNode::Started& load : loads) {
    const absl::StatusOr<LoadReport> report = load.observer->WaitForEnd();
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->load, first->load);
    EXPECT_EQ(report->outcome, Outcome::kComplete);
    EXPECT_EQ(report->total, first->total);
  }
  EXPECT_EQ(node_.reads().bytes(), 256);
  EXPECT_EQ((*node_.service().FindLoadByRequestId("id-1"))->identity().load, first->load);
  EXPECT_EQ(loads[1].observer->events().front(), "joined");
}

TEST_F(LoaderServiceIdentity, AnotherRequestForANameThatIsLoadingIsBusy) {
  const LoaderNode::Started first = StartHeld(Spec());
  LoadSpec other = Spec();
  other.digest = "asks for something else";
  EXPECT_EQ(ErrorReason(node_.Load(other).status()), Reason::kModelBusy);
  LoadSpec alone = Spec();
  alone.if_exists = IfExists::kFail;
  EXPECT_EQ(ErrorReason(node_.Load(alone).status()), Reason::kModelBusy) << "wants nobody else's load";
  node_.gpu().ReleaseCopies();
  EXPECT_TRUE(first.observer->WaitForEnd().ok());
}

TEST_F(LoaderServiceIdentity, ARetryGetsTheFirstAnswer) {
  const absl::StatusOr<LoadReport> first = node_.Load(Spec("id"));
  ASSERT_TRUE(first.ok());
  ASSERT_TRUE(node_.Unload("m").ok());
  const LoaderNode::Started retry = node_.Start(Spec("id"));
  EXPECT_EQ(retry.observer->WaitForEnd()->load, first->load);
  EXPECT_THAT(retry.observer->events(), ElementsAre("joined", "end"));
  EXPECT_EQ(ErrorReason(node_.registry().Use("m").status()), Reason::kModelNotFound) << "nothing was loaded again";
  EXPECT_NE(node_.Load(Spec("another"))->load, first->load);
}

TEST_F(LoaderServiceIdentity, ARequestIdIsForOneRequest) {
  ASSERT_TRUE(node_.Load(Spec("id")).ok());
  LoadSpec other = Spec("id");
  other.digest = "asks for something else";
  EXPECT_EQ(ErrorReason(node_.Load(other).status()), Reason::kRequestIdReused);
  other.request_id = std::string(129, 'x');
  EXPECT_EQ(ErrorReason(node_.Load(other).status()), Reason::kBadRequest);
}

TEST_F(LoaderServiceIdentity, AFailedLoadCanBeRepeatedWithItsId) {
  node_.SetFaults("model.safetensors", {.io_error_at = 100});
  EXPECT_EQ(node_.Load(Spec("id"))->outcome, Outcome::kFailed);
  node_.ClearFaults();
  EXPECT_EQ(node_.Load(Spec("id"))->outcome, Outcome::kComplete);
}

TEST_F(LoaderServiceIdentity, AnEndedLoadIsJoinedByNobody) {
  for (int round = 0; round < 20; ++round) {
    const absl::StatusOr<LoadReport> report = node_.Load(Spec());
    ASSERT_TRUE(report.ok()) << report.status();
    ASSERT_TRUE(node_.registry().Use("m").ok()) << "what was unloaded is loaded again";
    ASSERT_TRUE(node_.Unload("m").ok());
  }
}

TEST_F(LoaderServiceIdentity, ARequestIdIsInTheReport) { EXPECT_EQ(node_.Load(Spec("id"))->request_id, "id"); }

TEST_F(LoaderServiceIdentity, ALoadGoesOnForThoseWhoStay) {
  const LoaderNode::Started first = StartHeld(Spec());
  const LoaderNode::Started second = node_.Start(Spec());
  first.ticket->Leave();
  EXPECT_EQ(ErrorReason(first.observer->WaitForEnd().status()), Reason::kLoadCancelled);
  node_.gpu().ReleaseCopies();
  EXPECT_EQ(second.observer->WaitForEnd()->outcome, Outcome::kComplete);
}

TEST_F(LoaderServiceIdentity, ADetachedLoadOutlivesItsCaller) {
  LoadSpec spec = Spec("id");
  spec.detach = true;
  const LoaderNode::Started first = StartHeld(spec);
  first.ticket->Leave();
  first.observer->WaitForEnd().IgnoreError();
  const LoaderNode::Started again = node_.Start(Spec("id"));
  node_.gpu().ReleaseCopies();
  EXPECT_EQ(again.observer->WaitForEnd()->outcome, Outcome::kComplete);
}

TEST_F(LoaderServiceIdentity, StopLoadsStopsDetachedOnesToo) {
  LoadSpec spec = Spec();
  spec.detach = true;
  const LoaderNode::Started load = StartHeld(spec);
  node_.service().StopLoads();
  node_.gpu().ReleaseCopies();
  EXPECT_EQ(load.observer->WaitForEnd()->outcome, Outcome::kCancelled);
}

TEST_F(LoaderServiceIdentity, LoadsAreFoundWhileTheyRunAndAfterwards) {
  const LoaderNode::Started load = StartHeld(Spec("id"));
  const auto found = node_.service().FindLoadByRequestId("id");
  ASSERT_TRUE(found.ok()) << found.status();
  const std::string name = (*found)->identity().load;
  EXPECT_FALSE((*found)->status().done);
  node_.gpu().ReleaseCopies();
  EXPECT_TRUE(load.observer->WaitForEnd().ok());
  EXPECT_EQ((*(*node_.service().FindLoad(name))->status().result)->outcome, Outcome::kComplete);
  EXPECT_EQ(node_.service().ListLoads("", 10)->size(), 1);
}

TEST_F(LoaderServiceIdentity, MaterialisingIsKeptWithTheLoads) {
  LoadSpec spec = Spec();
  spec.residency = LoadSpec::Residency::kLazy;
  ASSERT_TRUE(node_.Load(spec).ok());
  const absl::StatusOr<LoadReport> report = node_.Materialize({});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ((*(*node_.service().FindLoad(report->load))->status().result)->keys.loaded, 1);
}

TEST_F(LoaderServiceIdentity, ReplaceSwapsTheModel) {
  const absl::StatusOr<LoadReport> before = node_.Load(Spec());
  ASSERT_TRUE(before.ok());
  const ModelHandle old = *node_.registry().Use("m");
  Write(2);
  LoadSpec spec = Spec();
  spec.if_exists = IfExists::kReplace;
  spec.fingerprint = "from another source";
  const LoaderNode::Started load = StartHeld(spec);
  EXPECT_EQ(node_.registry().Info("m")->state, ModelState::kReplacing);
  EXPECT_EQ(*node_.registry().Use("m"), old) << "the old one serves meanwhile";
  node_.gpu().ReleaseCopies();
  const absl::StatusOr<LoadReport> after = load.observer->WaitForEnd();
  ASSERT_TRUE(after.ok()) << after.status();
  EXPECT_EQ(after->outcome, Outcome::kComplete);
  EXPECT_GT(after->generation, before->generation);
  EXPECT_EQ(node_.ReadKey("m", "a"), std::string(256, 2));
}

TEST_F(LoaderServiceIdentity, ReplaceFreesTheOldModelWhenItsLastReaderIsDone) {
  ASSERT_TRUE(node_.Load(Spec()).ok());
  ModelHandle old = *node_.registry().Use("m");
  LoadSpec spec = Spec();
  spec.if_exists = IfExists::kReplace;
  ASSERT_TRUE(node_.Load(spec).ok());
  EXPECT_EQ(node_.gpu().account().state().used, 512);
  old.reset();
  EXPECT_EQ(node_.gpu().account().state().used, 256);
  ASSERT_TRUE(node_.Unload("m").ok());
  EXPECT_EQ(node_.gpu().account().state().used, 0);
}

TEST_F(LoaderServiceIdentity, AFailedReplaceLeavesTheOldModelServing) {
  const absl::StatusOr<LoadReport> before = node_.Load(Spec());
  ASSERT_TRUE(before.ok());
  node_.SetFaults("model.safetensors", {.io_error_at = 100});
  LoadSpec spec = Spec();
  spec.if_exists = IfExists::kReplace;
  EXPECT_EQ(node_.Load(spec)->outcome, Outcome::kFailed);
  node_.ClearFaults();
  EXPECT_EQ(node_.registry().Info("m")->state, ModelState::kResident);
  EXPECT_EQ(node_.registry().Info("m")->generation, before->generation);
  EXPECT_EQ(node_.ReadKey("m", "a"), std::string(256, 1));
  EXPECT_EQ(node_.gpu().account().state().used, 256);
}

}  // namespace
}  // namespace keyload
