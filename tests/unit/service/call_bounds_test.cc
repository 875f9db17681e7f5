// What throws or takes too long ends one call and leaves nothing behind.

#include <gtest/gtest.h>

#include <stop_token>
#include <string>
#include <vector>

#include "server/base/error.h"
#include "server/base/heap_account.h"
#include "server/service/materialize.h"
#include "server/service/model_keys.h"
#include "tests/unit/service/loader_node.h"

namespace keyload {
namespace {

constexpr uint64_t kBytes = 1ull << 20;

class CallBoundsTest : public testing::Test {
 protected:
  CallBoundsTest() {
    std::vector<TestTensor> tensors;
    for (const std::string& name : {std::string("layers.0.a"), std::string("layers.0.b"), std::string(2000, 'a')}) {
      tensors.push_back({.name = name, .dtype = DType::kU8, .shape = {kBytes}, .data = ""});
    }
    WriteSafetensors(node_.dir() + "/model.safetensors", tensors);
  }
  LoadSpec LazySpec() const {
    LoadSpec spec = node_.Spec();
    spec.residency = LoadSpec::Residency::kLazy;
    return spec;
  }
  void ExpectNoMemoryIsHeld() {
    const MemoryState memory = node_.gpu().account().state();
    EXPECT_EQ(memory.used, 0);
    EXPECT_EQ(memory.reserved, 0);
    EXPECT_EQ(node_.gpu().live_allocations(), 0);
  }

  LoaderNode node_;
};

TEST_F(CallBoundsTest, ALoadThatThrowsFailsWithAReportAndTheNextOneSucceeds) {
  node_.SetFaults("model.safetensors", {.throws = true});
  const absl::StatusOr<LoadReport> report = node_.Load(node_.Spec());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kFailed);
  EXPECT_EQ(ErrorReason(report->error), Reason::kMemoryExhausted);
  ExpectNoMemoryIsHeld();
  EXPECT_EQ(ErrorReason(node_.registry().Info("m").status()), Reason::kModelNotFound);
  EXPECT_EQ(node_.service().active_loads(), 0);
  node_.ClearFaults();
  EXPECT_EQ(node_.Load(node_.Spec())->outcome, Outcome::kComplete);
}

TEST_F(CallBoundsTest, AMaterializationThatThrowsLeavesTheKeysLazyAndTheNextOneLoadsThem) {
  ASSERT_TRUE(node_.Load(LazySpec()).ok());
  node_.SetFaults("model.safetensors", {.throws = true});
  EXPECT_EQ(ErrorReason(node_.Materialize({}).status()), Reason::kMemoryExhausted);
  EXPECT_EQ(node_.registry().Info("m")->state, ModelState::kLazy);
  ExpectNoMemoryIsHeld();
  node_.ClearFaults();
  EXPECT_TRUE(node_.Materialize({}).ok());
  EXPECT_EQ(node_.registry().Info("m")->state, ModelState::kResident);
}

TEST_F(CallBoundsTest, ASelectionOfManyGlobsEndsWhenItsCallerIsGone) {
  ASSERT_TRUE(node_.Load(LazySpec()).ok());
  std::stop_source stop;
  stop.request_stop();
  const RequestContext cancelled = {.stop = stop.get_token()};
  // So many that the context is asked at the long key.
  const std::vector<std::string> globs(900, "*a?*b?*c?*d?*e?*f?*g?*h?*i?*j?*k?*l?*m?*n?*o?*p?*q?*r?");
  const ModelHandle model = node_.registry().Info("m")->model;
  auto selection = KeySelection::Compile({.include = globs, .exclude = {}, .keys = {}});
  ASSERT_TRUE(selection.ok()) << selection.status();
  EXPECT_TRUE(SelectTensors(*model, *selection, 0, nullptr).ok());
  EXPECT_EQ(ErrorReason(SelectTensors(*model, *selection, 0, &cancelled).status()), Reason::kLoadCancelled);
  KeyCursor cursor(model, *std::move(selection), KeyCursor::Of::kAll);
  EXPECT_EQ(ErrorReason(cursor.Next(1000, cancelled).status()), Reason::kLoadCancelled);
}

// A node whose requests may take 2 MiB, and a checkpoint of 20,000 keys.
class RequestMemoryTest : public testing::Test {
 protected:
  RequestMemoryTest() : node_({.request_memory = 2 << 20}) {
    std::vector<TestTensor> tensors;
    for (int i = 0; i < 20'000; ++i) {
      tensors.push_back({.name = "m" + std::to_string(i) + ".w", .dtype = DType::kU8, .shape = {0}, .data = ""});
    }
    WriteSafetensors(node_.dir() + "/model.safetensors", tensors);
  }
  LoaderNode node_;
};

TEST_F(RequestMemoryTest, APlanOfMoreKeysThanThereIsMemoryForIsRefusedAndLeavesNothing) {
  RequestContext context;
  context.heap = std::make_shared<RequestHeap>(node_.service().request_memory());
  EXPECT_EQ(ErrorReason(node_.service().Plan(node_.Spec(), context).status()), Reason::kMemoryExhausted);
  context.heap.reset();
  EXPECT_EQ(node_.service().request_memory()->used_bytes(), 0u);
}

TEST_F(RequestMemoryTest, ALoadIsRefusedTheSameWay) {
  EXPECT_EQ(ErrorReason(node_.Load(node_.Spec()).status()), Reason::kMemoryExhausted);
  EXPECT_EQ(node_.service().request_memory()->used_bytes(), 0u);
}

TEST(RequestMemory, TheTablesOfALoadedModelAreCountedUntilItIsUnloaded) {
  LoaderNode node;
  std::vector<TestTensor> tensors;
  for (int i = 0; i < 5'000; ++i) {
    tensors.push_back({.name = "m" + std::to_string(i) + ".w", .dtype = DType::kU8, .shape = {0}, .data = ""});
  }
  WriteSafetensors(node.dir() + "/model.safetensors", tensors);
  ASSERT_TRUE(node.Load(node.Spec()).ok());
  EXPECT_GT(node.service().request_memory()->used_bytes(), 5'000 * sizeof(ModelKey));
  ASSERT_TRUE(node.Unload("m").ok());
  EXPECT_EQ(node.service().request_memory()->used_bytes(), 0u);
}

}  // namespace
}  // namespace keyload
