// Several callers that want the same keys at the same time.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <latch>
#include <thread>

#include "server/base/error.h"
#include "tests/unit/service/loader_node.h"

namespace keyload {
namespace {

constexpr uint64_t kBytes = 1 << 20;
const KeySelectionSpec kAll;

class MaterializeThreads : public testing::Test {
 protected:
  MaterializeThreads() {
    std::vector<TestTensor> tensors;
    for (const char* name : {"layers.0.a", "layers.0.b", "layers.1.a", "layers.1.b"}) {
      tensors.push_back({.name = name, .dtype = DType::kU8, .shape = {kBytes}, .data = ""});
    }
    WriteSafetensors(node_.dir() + "/model.safetensors", tensors);
    LoadSpec spec = node_.Spec();
    spec.residency = LoadSpec::Residency::kLazy;
    EXPECT_TRUE(node_.Load(spec).ok());
    model_ = node_.registry().Use("m").value();
  }

  std::future<absl::StatusOr<LoadReport>> Start(const KeySelectionSpec& select, RequestContext context = {}) {
    return std::async(std::launch::async, [this, select, context] { return node_.Materialize(select, context); });
  }
  // Blocks until nothing is left to claim.
  void WaitUntilAllIsClaimed() {
    while (true) {
      const std::vector<Residency::State> states = model_->residency().states();
      if (std::find(states.begin(), states.end(), Residency::State::kLazy) == states.end()) return;
      std::this_thread::yield();
    }
  }

  LoaderNode node_;
  ModelHandle model_;
};

TEST_F(MaterializeThreads, ThirtyTwoCallersReadTheSameKeysOnce) {
  constexpr int kCallers = 32;
  node_.reads().Hold();
  std::latch go(kCallers);
  std::vector<std::future<absl::StatusOr<LoadReport>>> callers;
  for (int i = 0; i < kCallers; ++i) {
    callers.push_back(std::async(std::launch::async, [&] {
      go.arrive_and_wait();
      return node_.Materialize(kAll);
    }));
  }
  WaitUntilAllIsClaimed();
  node_.reads().Release();
  uint64_t read = 0;
  for (auto& caller : callers) {
    const absl::StatusOr<LoadReport> report = caller.get();
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->outcome, Outcome::kComplete);
    EXPECT_EQ(report->keys.loaded, 4);
    read += report->bytes.read;
  }
  EXPECT_EQ(read, 4 * kBytes);
  EXPECT_EQ(node_.reads().bytes(), 4 * kBytes);
  EXPECT_EQ(node_.gpu().account().state().used, 4 * kBytes);
  EXPECT_EQ(node_.gpu().allocations(), 2);
}

TEST_F(MaterializeThreads, OverlappingSelectionsShareWhatTheyHaveInCommon) {
  node_.reads().Hold();
  auto first = Start({.include = {"layers.0.*"}, .exclude = {}, .keys = {}});
  node_.reads().WaitForCalls(1);
  auto second = Start({.include = {"*.b"}, .exclude = {}, .keys = {}});
  node_.reads().WaitForCalls(2);  // it reads layers.1.b while layers.0.b is on its way
  node_.reads().Release();
  EXPECT_EQ(first.get()->bytes.read, 2 * kBytes);
  const absl::StatusOr<LoadReport> report = second.get();
  EXPECT_EQ(report->bytes.read, kBytes);
  EXPECT_EQ(report->keys.loaded, 2);
  EXPECT_EQ(node_.reads().bytes(), 3 * kBytes);
}

TEST_F(MaterializeThreads, ACancelledWaiterLeavesTheLoadToTheOther) {
  node_.reads().Hold();
  auto loader = Start(kAll);
  WaitUntilAllIsClaimed();
  std::stop_source stop;
  auto waiter = Start(kAll, {.stop = stop.get_token()});
  stop.request_stop();
  EXPECT_EQ(ErrorReason(waiter.get().status()), Reason::kLoadCancelled);
  node_.reads().Release();
  EXPECT_EQ(loader.get()->keys.loaded, 4);
  EXPECT_EQ(node_.reads().bytes(), 4 * kBytes);
}

TEST_F(MaterializeThreads, AWaiterTakesOverWhenTheLoaderIsCancelled) {
  node_.gpu().HoldCopies();
  std::stop_source stop;
  auto loader = Start(kAll, {.stop = stop.get_token()});
  node_.gpu().WaitForCopiesStarted(1);
  auto waiter = Start(kAll);
  stop.request_stop();
  node_.gpu().ReleaseCopies();
  EXPECT_EQ(ErrorReason(loader.get().status()), Reason::kLoadCancelled);
  const absl::StatusOr<LoadReport> report = waiter.get();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->keys.loaded, 4);
  EXPECT_EQ(report->bytes.read, 4 * kBytes);
  EXPECT_TRUE(node_.ReadKey("m", "layers.1.b") == PatternBytes("layers.1.b", kBytes));
}

TEST_F(MaterializeThreads, AWaiterTakesOverWhenTheLoaderFails) {
  node_.SetFaults("model.safetensors", {.end_of_file_at = std::nullopt, .io_error_at = 3 * kBytes, .file = "f"});
  node_.gpu().HoldCopies();
  node_.reads().Hold();
  auto loader = Start(kAll);
  WaitUntilAllIsClaimed();
  node_.reads().WaitForCalls(1);
  node_.ClearFaults();  // the loader has its reader by now
  auto waiter = Start(kAll);
  node_.reads().Release();
  node_.gpu().ReleaseCopies();
  EXPECT_EQ(ErrorReason(loader.get().status()), Reason::kIoError);
  EXPECT_EQ(waiter.get()->keys.loaded, 4);
}

TEST_F(MaterializeThreads, EvictedWhileItIsReadTheReaderKeepsItsBytes) {
  ASSERT_TRUE(node_.Materialize(kAll).ok());
  const auto key = static_cast<uint32_t>(model_->FindKey("layers.1.a"));
  absl::StatusOr<TensorBytes> bytes = node_.service().OpenTensor(*model_, key, {});
  ASSERT_TRUE(bytes.ok());
  EXPECT_EQ(node_.Evict(kAll)->bytes, 4 * kBytes);
  EXPECT_EQ(node_.gpu().account().state().used, 2 * kBytes);
  std::string read(kBytes, '\0');
  EXPECT_TRUE(bytes->Read(0, std::as_writable_bytes(std::span(read))).ok());
  EXPECT_TRUE(read == PatternBytes("layers.1.a", kBytes));
  bytes = absl::CancelledError();
  EXPECT_EQ(node_.gpu().account().state().used, 0);
}

TEST_F(MaterializeThreads, ReadersMaterializersAndEvictorsTogetherNeverSeeWrongBytes) {
  constexpr int kRounds = 50;
  std::vector<std::jthread> threads;
  for (const char* name : {"layers.0.a", "layers.0.b", "layers.1.a", "layers.1.b"}) {
    threads.emplace_back([this, name] {
      const std::string expected = PatternBytes(name, kBytes);
      for (int i = 0; i < kRounds; ++i) EXPECT_TRUE(node_.ReadKey("m", name) == expected) << name;
    });
  }
  threads.emplace_back([this] {
    for (int i = 0; i < kRounds; ++i) EXPECT_TRUE(node_.Materialize(kAll).ok());
  });
  threads.emplace_back([this] {
    for (int i = 0; i < kRounds; ++i) EXPECT_TRUE(node_.Evict(kAll).ok());
  });
  threads.clear();
  ASSERT_TRUE(node_.Evict(kAll).ok());
  EXPECT_EQ(node_.gpu().account().state().used, 0);
  EXPECT_EQ(node_.gpu().live_allocations(), 0);
}

}  // namespace
}  // namespace keyload
