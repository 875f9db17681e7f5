// Loads that end before their model is there: nothing of them may stay.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "server/base/error.h"
#include "tests/unit/service/loader_node.h"

namespace keyload {
namespace {

using testing::AnyOf;
using testing::ElementsAre;

constexpr uint64_t kTensorBytes = 8ull << 20;  // two blocks

void WriteLarge(const LoaderNode& node) {
  WriteSafetensors(node.dir() + "/model.safetensors",
                   {{.name = "a", .dtype = DType::kU8, .shape = {kTensorBytes}, .data = ""},
                    {.name = "b", .dtype = DType::kU8, .shape = {kTensorBytes}, .data = ""}});
}

// As if the load had never been: memory, name, and the next load.
void ExpectNothingLeft(LoaderNode& node) {
  const MemoryState memory = node.gpu().account().state();
  EXPECT_EQ(memory.used, 0);
  EXPECT_EQ(memory.reserved, 0);
  EXPECT_EQ(node.gpu().live_allocations(), 0);
  EXPECT_EQ(ErrorReason(node.registry().Info("m").status()), Reason::kModelNotFound);
  EXPECT_EQ(node.service().active_loads(), 0);
}

TEST(LoaderServiceEnd, ACancelledLoadGivesItsMemoryAndNameBack) {
  LoaderNode node;
  WriteLarge(node);
  node.gpu().HoldCopies();
  LoaderNode::Started load = node.Start(node.Spec());
  node.gpu().WaitForCopiesStarted(1);
  load.ticket->Cancel();
  node.gpu().ReleaseCopies();
  const absl::StatusOr<LoadReport> report = load.observer->WaitForEnd();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kCancelled);
  EXPECT_EQ(ErrorReason(report->error), Reason::kLoadCancelled);
  EXPECT_EQ(report->generation, 0);
  EXPECT_THAT(load.observer->events(), ElementsAre("accepted", "planned", "end"));
  ExpectNothingLeft(node);
}

TEST(LoaderServiceEnd, ACancelledLoadDoesNotEndWhileACopyIsInFlight) {
  LoaderNode node;
  WriteLarge(node);
  node.gpu().HoldCopies();
  LoaderNode::Started load = node.Start(node.Spec());
  node.gpu().WaitForCopiesStarted(1);
  load.ticket->Cancel();
  EXPECT_THAT(load.observer->events(), ElementsAre("accepted", "planned"));
  EXPECT_GT(node.gpu().live_allocations(), 0);
  node.gpu().ReleaseCopies();
  ASSERT_TRUE(load.observer->WaitForEnd().ok());
}

TEST(LoaderServiceEnd, ThePhasesOfACancelledLoadSumToItsTotal) {
  LoaderNode node;
  WriteLarge(node);
  node.gpu().HoldCopies();
  LoaderNode::Started load = node.Start(node.Spec());
  node.gpu().WaitForCopiesStarted(1);
  load.ticket->Cancel();
  node.gpu().ReleaseCopies();
  const absl::StatusOr<LoadReport> report = load.observer->WaitForEnd();
  ASSERT_TRUE(report.ok());
  absl::Duration sum;
  for (const Phase& phase : report->phases) sum += phase.duration;
  EXPECT_EQ(sum, report->total);
  EXPECT_GT(report->total, absl::ZeroDuration());
}

TEST(LoaderServiceEnd, TheNextLoadAfterACancelledOneSucceeds) {
  LoaderNode node;
  WriteLarge(node);
  node.gpu().HoldCopies();
  LoaderNode::Started load = node.Start(node.Spec());
  node.gpu().WaitForCopiesStarted(1);
  load.ticket->Cancel();
  node.gpu().ReleaseCopies();
  ASSERT_TRUE(load.observer->WaitForEnd().ok());
  const absl::StatusOr<LoadReport> again = node.Load(node.Spec());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->outcome, Outcome::kComplete);
}

TEST(LoaderServiceEnd, CancelledInTheQueueItEndsWithoutAPlan) {
  LoaderNode node;
  WriteLarge(node);
  node.gpu().HoldCopies();
  const LoaderNode::Started running = node.Start(node.Spec("other"));
  LoaderNode::Started queued = node.Start(node.Spec());
  queued.ticket->Cancel();
  node.gpu().ReleaseCopies();
  ASSERT_TRUE(running.observer->WaitForEnd().ok());
  EXPECT_EQ(ErrorReason(queued.observer->WaitForEnd().status()), Reason::kLoadCancelled);
  EXPECT_THAT(queued.observer->events(), ElementsAre("accepted", "end"));
}

TEST(LoaderServiceEnd, APastDeadlineEndsItBeforeItOpensAnything) {
  LoaderNode node;
  WriteLarge(node);
  const LoaderNode::Started load = node.Start(node.Spec(), Deadline::After(-absl::Seconds(1)));
  EXPECT_EQ(ErrorReason(load.observer->WaitForEnd().status()), Reason::kDeadlineExceeded);
  EXPECT_EQ(node.readers_made(), 0);
  ExpectNothingLeft(node);
}

TEST(LoaderServiceEnd, ADeadlineInTheMiddleCancelsIt) {
  LoaderNode node;
  WriteLarge(node);
  node.gpu().HoldCopies();
  const Deadline deadline = Deadline::After(absl::Milliseconds(500));
  const LoaderNode::Started load = node.Start(node.Spec(), deadline);
  node.gpu().WaitForCopiesStarted(1);
  while (!deadline.passed()) load.observer->WaitForProgress();
  node.gpu().ReleaseCopies();
  const absl::StatusOr<LoadReport> report = load.observer->WaitForEnd();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kCancelled);
  EXPECT_EQ(ErrorReason(report->error), Reason::kDeadlineExceeded);
  ExpectNothingLeft(node);
}

TEST(LoaderServiceEnd, WithoutDeviceMemoryItFailsWithAReport) {
  LoaderNode node({.gpu_bytes = kTensorBytes});
  WriteLarge(node);
  const absl::StatusOr<LoadReport> report = node.Load(node.Spec());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kFailed);
  EXPECT_EQ(ErrorReason(report->error), Reason::kDeviceOutOfMemory);
  EXPECT_EQ(ErrorDetails(report->error)["device"], "cuda:0");
  EXPECT_EQ(report->bytes.selected, 2 * kTensorBytes);
  EXPECT_EQ(node.readers_made(), 0);
  ExpectNothingLeft(node);
}

TEST(LoaderServiceEnd, WithoutDeviceMemoryWhatOthersHoldStays) {
  LoaderNode node({.gpu_bytes = 3 * kTensorBytes});
  WriteLarge(node);
  ASSERT_TRUE(node.Load(node.Spec("other")).ok());
  const uint64_t used = node.gpu().account().state().used;
  const absl::StatusOr<LoadReport> report = node.Load(node.Spec());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kFailed);
  EXPECT_EQ(node.gpu().account().state().used, used);
  EXPECT_EQ(node.gpu().account().state().reserved, 0);
  EXPECT_TRUE(node.ReadKey("other", "a") == PatternBytes("a", kTensorBytes));
}

TEST(LoaderServiceEnd, AnAllocationThatTheSystemRefusesFailsIt) {
  LoaderNode node({.fail_allocation = 2});
  WriteSafetensors(node.dir() + "/model.safetensors",
                   {{.name = "layers.0.a", .dtype = DType::kU8, .shape = {kTensorBytes}, .data = ""},
                    {.name = "layers.1.a", .dtype = DType::kU8, .shape = {kTensorBytes}, .data = ""}});
  const absl::StatusOr<LoadReport> report = node.Load(node.Spec());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kFailed);
  EXPECT_EQ(ErrorReason(report->error), Reason::kDeviceOutOfMemory);
  EXPECT_EQ(node.gpu().allocations(), 1);
  ExpectNothingLeft(node);
}

TEST(LoaderServiceEnd, AnIoErrorInTheMiddleFailsIt) {
  LoaderNode node;
  WriteLarge(node);
  node.SetFaults("model.safetensors",
                 {.end_of_file_at = std::nullopt, .io_error_at = kTensorBytes, .file = "model.safetensors"});
  const absl::StatusOr<LoadReport> report = node.Load(node.Spec());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kFailed);
  EXPECT_EQ(ErrorReason(report->error), Reason::kIoError);
  EXPECT_LT(report->bytes.read, 2 * kTensorBytes);
  ExpectNothingLeft(node);
}

TEST(LoaderServiceEnd, AFileThatEndsEarlyFailsItAsTruncated) {
  LoaderNode node;
  WriteLarge(node);
  node.SetFaults("model.safetensors",
                 {.end_of_file_at = kTensorBytes, .io_error_at = std::nullopt, .file = "model.safetensors"});
  const absl::StatusOr<LoadReport> report = node.Load(node.Spec());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kFailed);
  EXPECT_EQ(ErrorReason(report->error), Reason::kCheckpointTruncated);
  ExpectNothingLeft(node);
}

TEST(LoaderServiceEnd, AFileTruncatedWhileItIsReadFailsIt) {
  LoaderNode node;
  WriteLarge(node);
  node.gpu().HoldCopies();
  const LoaderNode::Started load = node.Start(node.Spec());
  node.gpu().WaitForCopiesStarted(1);
  std::filesystem::resize_file(node.dir() + "/model.safetensors", 1024);
  node.gpu().ReleaseCopies();
  const absl::StatusOr<LoadReport> report = load.observer->WaitForEnd();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kFailed);
  EXPECT_THAT(ErrorReason(report->error), AnyOf(Reason::kCheckpointTruncated, Reason::kCheckpointChanged));
  EXPECT_THAT(std::string(report->error.message()), testing::HasSubstr("model.safetensors"));
  ExpectNothingLeft(node);
}

}  // namespace
}  // namespace keyload
