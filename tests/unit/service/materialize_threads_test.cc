// Several callers that want the same keys at the same time.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
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
    UseModel(spec);
  }

  // Loads `spec` in the place of what is there.
  void UseModel(const LoadSpec& spec) {
    model_ = {};
    EXPECT_TRUE(node_.Unload("m").ok());
    EXPECT_EQ(node_.Load(spec)->outcome, Outcome::kComplete);
    model_ = node_.registry().Use("m").value();
  }

  std::future<absl::StatusOr<LoadReport>> Start(const KeySelectionSpec& select, RequestContext context = {}) {
    return std::async(std::launch::async, [this, select, context] { return node_.Materialize(select, context); });
  }
  // Tensors in `state` now.
  int64_t Count(Residency::State state) {
    const std::vector<Residency::State> states = model_->residency().states();
    return std::count(states.begin(), states.end(), state);
  }
  // Blocks until nothing is left to claim.
  void WaitUntilAllIsClaimed() {
    while (Count(Residency::State::kLazy) > 0) std::this_thread::yield();
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
  LoadSpec spec = node_.Spec();
  spec.residency = LoadSpec::Residency::kLazy;
  spec.device_map = {};
  spec.device_map.entries = {{"layers.0", "cuda:0"}, {"layers.1", "cpu"}};
  spec.host_storage = HostStorage::kCopied;
  UseModel(spec);
  node_.gpu().HoldCopies();
  auto loader = Start({.include = {"layers.0.*"}, .exclude = {}, .keys = {}});
  node_.gpu().WaitForCopiesStarted(1);
  std::stop_source stop;
  auto waiter = Start(kAll, {.stop = stop.get_token()});
  // What is on the other device is no longer its own to load: from now on it can only wait.
  while (Count(Residency::State::kResident) < 2) std::this_thread::yield();
  EXPECT_EQ(waiter.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  stop.request_stop();
  EXPECT_EQ(ErrorReason(waiter.get().status()), Reason::kLoadCancelled);
  EXPECT_EQ(Count(Residency::State::kLoading), 2);
  node_.gpu().ReleaseCopies();
  const absl::StatusOr<LoadReport> report = loader.get();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->keys.loaded, 2);
  EXPECT_EQ(Count(Residency::State::kResident), 4);  // what the waiter loaded stays
  EXPECT_EQ(node_.reads().bytes(), 4 * kBytes);
}

TEST_F(MaterializeThreads, ACancelledMaterializeLeavesTheModelAsItWas) {
  LoadSpec spec = node_.Spec();
  spec.residency = LoadSpec::Residency::kLazy;
  spec.reserve_now = true;
  UseModel(spec);
  ASSERT_TRUE(node_.Materialize({.include = {}, .exclude = {}, .keys = {"layers.0.a"}}).ok());
  const MemoryState before = node_.gpu().account().state();
  node_.gpu().HoldCopies();
  std::stop_source stop;
  auto cancelled = Start(kAll, {.stop = stop.get_token()});
  node_.gpu().WaitForCopiesStarted(2);
  EXPECT_EQ(Count(Residency::State::kLoading), 3);
  stop.request_stop();
  node_.gpu().ReleaseCopies();
  EXPECT_EQ(ErrorReason(cancelled.get().status()), Reason::kLoadCancelled);
  EXPECT_EQ(Count(Residency::State::kLazy), 3);
  EXPECT_EQ(node_.gpu().account().state().used, before.used);
  EXPECT_EQ(node_.gpu().account().state().reserved, before.reserved);
  EXPECT_EQ(model_->LiveDevices()[0].reserved_bytes, 4 * kBytes);
  EXPECT_EQ(model_->LiveDevices()[0].tensors, 1);
  EXPECT_TRUE(node_.ReadKey("m", "layers.0.b") == PatternBytes("layers.0.b", kBytes));
  EXPECT_EQ(node_.Materialize(kAll)->keys.loaded, 4);
  EXPECT_TRUE(node_.ReadKey("m", "layers.1.a") == PatternBytes("layers.1.a", kBytes));
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
