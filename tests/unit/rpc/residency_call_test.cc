// Materialize, Evict and reading lazy keys, through a real channel.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "tests/unit/rpc/loader_server.h"

namespace keyload {
namespace {

constexpr int kLayers = 4;
constexpr uint64_t kBytes = 1 << 20;

class ResidencyCalls : public testing::Test {
 protected:
  // A lazy model "m" with layers.0.w to layers.3.w.
  ResidencyCalls() : ResidencyCalls(LoaderNode::Options()) {}
  explicit ResidencyCalls(const LoaderNode::Options& options) : server_(options) {
    std::vector<TestTensor> tensors;
    for (int i = 0; i < kLayers; ++i) {
      tensors.push_back({.name = Key(i), .dtype = DType::kU8, .shape = {kBytes}, .data = ""});
    }
    WriteSafetensors(server_.node().dir() + "/model.safetensors", tensors);
    v1::LoadSpec spec = server_.Spec();
    spec.set_residency(v1::RESIDENCY_LAZY);
    report_ = server_.Load(spec);
  }
  static std::string Key(int layer) { return "layers." + std::to_string(layer) + ".w"; }

  grpc::Status Materialize(const std::string& glob, v1::MaterializeResponse& response) {
    TestContext context;
    v1::MaterializeRequest request;
    request.set_model("m");
    request.mutable_select()->add_include(glob);
    return server_.stub().Materialize(&context, request, &response);
  }
  v1::Model GetModel() {
    TestContext context;
    v1::GetModelRequest request;
    request.set_model("m");
    v1::GetModelResponse response;
    EXPECT_TRUE(server_.stub().GetModel(&context, request, &response).ok());
    return response.model();
  }
  // The bytes of one key, and what the first chunk said about it.
  std::pair<std::string, v1::KeyInfo> Read(const std::string& key) {
    TestContext context;
    v1::ReadTensorsRequest request;
    request.set_model("m");
    request.mutable_select()->add_keys(key);
    const auto reader = server_.stub().ReadTensors(&context, request);
    std::pair<std::string, v1::KeyInfo> result;
    v1::ReadTensorsResponse chunk;
    while (reader->Read(&chunk)) {
      if (chunk.has_tensor()) result.second = chunk.tensor();
      result.first += chunk.data();
    }
    EXPECT_TRUE(reader->Finish().ok());
    return result;
  }

  LoaderServer server_;
  v1::LoadReport report_;
};

TEST_F(ResidencyCalls, ALazyModelIsListedAsSuch) {
  EXPECT_EQ(report_.keys().lazy(), kLayers);
  EXPECT_EQ(report_.bytes().read(), 0);
  const v1::Model model = GetModel();
  EXPECT_EQ(model.state(), v1::MODEL_STATE_LAZY);
  EXPECT_EQ(model.keys().lazy(), kLayers);
  EXPECT_EQ(model.devices(0).tensor_bytes(), 0);
}

TEST_F(ResidencyCalls, MaterializeAnswersWithItsReportAndTheModelFollows) {
  v1::MaterializeResponse response;
  ASSERT_TRUE(Materialize("layers.{0..1}.*", response).ok());
  EXPECT_EQ(response.report().outcome(), v1::LoadReport::OUTCOME_COMPLETE);
  EXPECT_EQ(response.report().keys().loaded(), 2);
  EXPECT_EQ(response.report().bytes().read(), 2 * kBytes);
  EXPECT_EQ(response.report().generation(), report_.generation());
  const v1::Model model = GetModel();
  EXPECT_EQ(model.state(), v1::MODEL_STATE_PARTIAL);
  EXPECT_EQ(model.keys().loaded(), 2);
  EXPECT_EQ(model.keys().lazy(), 2);
  EXPECT_EQ(model.devices(0).tensor_bytes(), 2 * kBytes);
  EXPECT_EQ(model.generation(), report_.generation());
}

TEST_F(ResidencyCalls, AnErrorIsAStatusWithItsReason) {
  TestContext context;
  v1::MaterializeRequest request;
  request.set_model("m");
  request.mutable_select()->add_keys("nowhere");
  v1::MaterializeResponse response;
  const grpc::Status status = server_.stub().Materialize(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(InfoOf(status).reason(), "KEY_NOT_FOUND");
}

TEST_F(ResidencyCalls, RequestIdsAreNotSupported) {
  TestContext context;
  v1::MaterializeRequest request;
  request.set_model("m");
  request.set_request_id("r");
  v1::MaterializeResponse response;
  EXPECT_EQ(InfoOf(server_.stub().Materialize(&context, request, &response)).metadata().at("field"), "request_id");
}

TEST_F(ResidencyCalls, LimitsReject) {
  v1::LoadSpec spec = server_.Spec("n");
  spec.set_residency(v1::RESIDENCY_LAZY);
  v1::TensorSpec& tensor = *spec.mutable_expected()->mutable_manifest()->add_tensors();
  tensor.set_name("absent");
  tensor.set_dtype("F32");
  server_.Load(spec);
  TestContext context;
  v1::MaterializeRequest request;
  request.set_model("n");
  request.mutable_limits()->set_max_missing(0);
  v1::MaterializeResponse response;
  ASSERT_TRUE(server_.stub().Materialize(&context, request, &response).ok());
  EXPECT_EQ(response.report().outcome(), v1::LoadReport::OUTCOME_REJECTED);
  EXPECT_EQ(response.report().missing_keys(0), "absent");
}

TEST_F(ResidencyCalls, EvictSaysWhatItGaveBack) {
  v1::MaterializeResponse materialized;
  ASSERT_TRUE(Materialize("*", materialized).ok());
  const uint64_t used = server_.node().gpu().account().state().used;
  TestContext context;
  v1::EvictRequest request;
  request.set_model("m");
  v1::EvictResponse response;
  ASSERT_TRUE(server_.stub().Evict(&context, request, &response).ok());
  EXPECT_EQ(response.tensors(), kLayers);
  EXPECT_EQ(response.bytes(), used);
  EXPECT_EQ(server_.node().gpu().account().state().used, 0);
  EXPECT_EQ(GetModel().state(), v1::MODEL_STATE_LAZY);
}

TEST_F(ResidencyCalls, ReadingALazyKeyMakesItResident) {
  const auto [bytes, info] = Read(Key(2));
  EXPECT_TRUE(bytes == PatternBytes(Key(2), kBytes));
  EXPECT_EQ(info.state(), v1::KEY_STATE_RESIDENT);
  EXPECT_EQ(GetModel().keys().loaded(), 1);
}

TEST_F(ResidencyCalls, NeighboursAreReadTogether) {
  TestContext context;
  v1::ReadTensorsRequest request;
  request.set_model("m");
  const auto reader = server_.stub().ReadTensors(&context, request);
  uint64_t bytes = 0;
  v1::ReadTensorsResponse chunk;
  while (reader->Read(&chunk)) {
    EXPECT_TRUE(!chunk.has_tensor() || chunk.tensor().state() == v1::KEY_STATE_RESIDENT);
    bytes += chunk.data().size();
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(bytes, kLayers * kBytes);
  EXPECT_EQ(server_.node().reads().bytes(), kLayers * kBytes);
  EXPECT_LT(server_.node().reads().calls(), kLayers);
}

TEST_F(ResidencyCalls, AReadThatFailsNamesModelAndKeyAfterTheKeysBeforeIt) {
  FaultyReader::Faults faults;
  faults.io_error_at = 2 * kBytes + kBytes / 2;
  server_.node().SetFaults("model.safetensors", faults);
  TestContext context;
  v1::ReadTensorsRequest request;
  request.set_model("m");
  const auto reader = server_.stub().ReadTensors(&context, request);
  std::string bytes;
  v1::ReadTensorsResponse chunk;
  while (reader->Read(&chunk)) bytes += chunk.data();
  EXPECT_TRUE(bytes == PatternBytes(Key(0), kBytes) + PatternBytes(Key(1), kBytes));
  const grpc::Status status = reader->Finish();
  EXPECT_THAT(status.error_message(), testing::StartsWith("model m: layers.2.w: "));
  const google::rpc::ErrorInfo info = InfoOf(status);
  EXPECT_EQ(info.reason(), "IO_ERROR");
  EXPECT_EQ(info.metadata().at("model"), "m");
  EXPECT_EQ(info.metadata().at("key"), "layers.2.w");
  EXPECT_EQ(info.metadata().at("file"), "shard");
}

TEST_F(ResidencyCalls, QueriesAreAnsweredWhileMoreReadsWaitThanThereAreQueryThreads) {
  server_.node().reads().Hold();
  std::vector<std::jthread> readers;
  for (int i = 0; i < kLayers; ++i) {
    readers.emplace_back([this, i] { EXPECT_EQ(Read(Key(i)).first.size(), kBytes); });
  }
  server_.node().reads().WaitForCalls(2);
  EXPECT_EQ(GetModel().keys().lazy(), kLayers);
  server_.node().reads().Release();
}

// Two threads for the streams, two that read, eight readers: the reads that lazy keys need must not wait for the
// threads that wait for them.
TEST_F(ResidencyCalls, ManyReadersOfLazyKeysFinish) {
  std::vector<std::jthread> readers;
  for (int i = 0; i < 2 * kLayers; ++i) {
    readers.emplace_back(
        [this, i] { EXPECT_TRUE(Read(Key(i % kLayers)).first == PatternBytes(Key(i % kLayers), kBytes)); });
  }
  readers.clear();
  EXPECT_EQ(server_.node().reads().bytes(), kLayers * kBytes);
}

TEST_F(ResidencyCalls, ACancelledCallLeavesTheKeysLazy) {
  server_.node().reads().Hold();
  TestContext context;
  v1::MaterializeRequest request;
  request.set_model("m");
  v1::MaterializeResponse response;
  grpc::Status status;
  std::jthread call([&] { status = server_.stub().Materialize(&context, request, &response); });
  server_.node().reads().WaitForCalls(1);
  context.TryCancel();
  call.join();
  server_.node().reads().Release();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  // The next one waits for the end of that one.
  ASSERT_TRUE(Materialize("*", response).ok());
  EXPECT_EQ(response.report().keys().loaded(), kLayers);
}

class SmallQueue : public ResidencyCalls {
 protected:
  SmallQueue() : ResidencyCalls({.load_threads = 1, .load_queue = 1}) {}
};

TEST_F(SmallQueue, AFullQueueRefuses) {
  server_.node().reads().Hold();
  std::vector<std::jthread> calls;
  calls.emplace_back([this] {
    v1::MaterializeResponse response;
    EXPECT_TRUE(Materialize("*", response).ok());
  });
  server_.node().reads().WaitForCalls(1);
  calls.emplace_back([this] {
    v1::MaterializeResponse response;
    EXPECT_TRUE(Materialize("*", response).ok());
  });
  while (server_.node().loads().queued() < 1) std::this_thread::yield();
  v1::MaterializeResponse response;
  EXPECT_EQ(InfoOf(Materialize("*", response)).reason(), "LOAD_QUEUE_FULL");
  server_.node().reads().Release();
}

}  // namespace
}  // namespace keyload
