// Unloading models whose streams nobody reads, through a real channel.

#include <gtest/gtest.h>

#include <thread>

#include "tests/unit/rpc/loader_server.h"

namespace keyload {
namespace {

constexpr uint64_t kBytes = 24 << 20;  // more than a connection takes that nobody reads

class UnloadCalls : public testing::Test {
 protected:
  UnloadCalls() : UnloadCalls(std::chrono::hours(1)) {}
  explicit UnloadCalls(std::chrono::milliseconds unread_limit) : server_({}, unread_limit) {
    WriteSafetensors(server_.node().dir() + "/model.safetensors",
                     {{.name = "a", .dtype = DType::kU8, .shape = {kBytes}, .data = ""}});
    server_.Load(server_.Spec("a"));
    server_.Load(server_.Spec("b"));
  }
  // A stream of all tensors of `model` that has begun, of which at most one message is read.
  std::unique_ptr<grpc::ClientReader<v1::ReadTensorsResponse>> Read(TestContext& context, const std::string& model) {
    v1::ReadTensorsRequest request;
    request.set_model(model);
    auto stream = server_.stub().ReadTensors(&context, request);
    v1::ReadTensorsResponse chunk;
    stream->Read(&chunk);
    return stream;
  }
  static void ReadToItsEnd(grpc::ClientReader<v1::ReadTensorsResponse>& stream) {
    v1::ReadTensorsResponse chunk;
    while (stream.Read(&chunk)) {
    }
  }
  grpc::Status Unload(TestContext& context, const std::string& model) {
    v1::UnloadModelRequest request;
    request.set_model(model);
    v1::UnloadModelResponse response;
    const grpc::Status status = server_.stub().UnloadModel(&context, request, &response);
    EXPECT_EQ(response.freed_bytes(), status.ok() ? kBytes : 0);
    return status;
  }
  grpc::Status Unload(const std::string& model) {
    TestContext context;
    return Unload(context, model);
  }
  void WaitUntilUnloading(const std::string& model) {
    while (server_.node().registry().Info(model)->state != ModelState::kUnloading) std::this_thread::yield();
  }

  LoaderServer server_;
};

// The server has one thread for unloading.
TEST_F(UnloadCalls, OneThatWaitsForAReaderHoldsUpNoOther) {
  TestContext context;
  const auto stream = Read(context, "a");
  std::jthread waiting([this] { EXPECT_TRUE(Unload("a").ok()); });
  WaitUntilUnloading("a");
  EXPECT_TRUE(Unload("b").ok());
  EXPECT_EQ(server_.node().registry().Info("a")->state, ModelState::kUnloading);
  ReadToItsEnd(*stream);
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(UnloadCalls, ACallerThatGoesAwayLeavesTheUnloadingToTheLastReader) {
  TestContext reading;
  const auto stream = Read(reading, "a");
  TestContext unloading;
  std::jthread waiting([&] { EXPECT_EQ(Unload(unloading, "a").error_code(), grpc::StatusCode::CANCELLED); });
  WaitUntilUnloading("a");
  unloading.TryCancel();
  waiting.join();
  EXPECT_EQ(InfoOf(Unload("a")).reason(), "MODEL_BUSY");
  ReadToItsEnd(*stream);
  EXPECT_TRUE(stream->Finish().ok());
  while (server_.node().registry().Info("a").ok()) std::this_thread::yield();
  EXPECT_EQ(server_.node().gpu().account().state().used, kBytes);
}

TEST_F(UnloadCalls, AtShutdownOneThatWaitsIsCancelled) {
  TestContext context;
  const auto stream = Read(context, "a");
  grpc::Status status;
  std::jthread waiting([&] { status = Unload("a"); });
  WaitUntilUnloading("a");
  server_.server().CancelCalls();
  waiting.join();
  EXPECT_EQ(InfoOf(status).reason(), "LOAD_CANCELLED");
}

class UnreadStreams : public UnloadCalls {
 protected:
  UnreadStreams() : UnloadCalls(std::chrono::milliseconds(20)) {}
};

TEST_F(UnreadStreams, AreCancelledSoThatTheirModelUnloads) {
  TestContext context;
  const auto stream = Read(context, "a");
  EXPECT_TRUE(Unload("a").ok());
  ReadToItsEnd(*stream);
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

}  // namespace
}  // namespace keyload
