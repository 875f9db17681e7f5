// What probes and reflection get.

#include <gmock/gmock.h>
#include <google/protobuf/wrappers.pb.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include "tests/unit/rpc/loader_server.h"

namespace keyload {
namespace {

enum Serving { kUnknown = 0, kServing = 1, kNotServing = 2, kServiceUnknown = 3 };
constexpr char kService[] = "keyload.v1.ModelLoaderService";

// HealthCheckRequest{string service = 1} and HealthCheckResponse{enum status = 1} are on the wire what the wrappers
// are.
using HealthStub = grpc::TemplatedGenericStub<google::protobuf::StringValue, google::protobuf::Int32Value>;

bool Next(grpc::CompletionQueue& queue) {
  void* tag = nullptr;
  bool ok = false;
  return queue.Next(&tag, &ok) && ok;
}

google::protobuf::StringValue Named(const std::string& service) {
  google::protobuf::StringValue request;
  request.set_value(service);
  return request;
}

// What Check answers; the code of an error, negative.
int Check(const std::shared_ptr<grpc::Channel>& channel, const std::string& service) {
  TestContext context;
  grpc::CompletionQueue queue;
  google::protobuf::Int32Value response;
  grpc::Status status;
  const auto call =
      HealthStub(channel).PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", Named(service), &queue);
  call->StartCall();
  call->Finish(&response, &status, nullptr);
  Next(queue);
  return status.ok() ? response.value() : -status.error_code();
}

// A running grpc.health.v1.Health/Watch.
class Watch {
 public:
  Watch(const std::shared_ptr<grpc::Channel>& channel, const std::string& service)
      : stub_(channel), call_(stub_.PrepareCall(&context_, "/grpc.health.v1.Health/Watch", &queue_)) {
    call_->StartCall(nullptr);
    Next(queue_);
    call_->WriteLast(Named(service), grpc::WriteOptions(), nullptr);
    Next(queue_);
  }
  ~Watch() {
    context_.TryCancel();
    grpc::Status status;
    call_->Finish(&status, nullptr);
    Next(queue_);
  }
  // Blocks until the server says something.
  int NextStatus() {
    google::protobuf::Int32Value response;
    call_->Read(&response, nullptr);
    return Next(queue_) ? response.value() : -1;
  }

 private:
  TestContext context_;
  grpc::CompletionQueue queue_;
  HealthStub stub_;
  decltype(std::declval<HealthStub>().PrepareCall(nullptr, "", nullptr)) call_;
};

TEST(Health, IsServingWhenItStarted) {
  LoaderServer server;
  for (const char* const service : {"", kService, "liveness", "readiness"}) {
    EXPECT_EQ(Check(server.channel(), service), kServing) << service;
  }
  EXPECT_EQ(Check(server.channel(), "something"), -grpc::StatusCode::NOT_FOUND);
}

TEST(Health, LivesButIsNotServingWhileItDrains) {
  LoaderServer server;
  server.server().BeginDrain();
  for (const char* const service : {"", kService, "readiness"}) {
    EXPECT_EQ(Check(server.channel(), service), kNotServing) << service;
  }
  EXPECT_EQ(Check(server.channel(), "liveness"), kServing);
}

TEST(Health, WatchTellsTheStateAtOnceAndThenChanges) {
  LoaderServer server;
  Watch watch(server.channel(), kService);
  Watch unknown(server.channel(), "something");
  EXPECT_EQ(watch.NextStatus(), kServing);
  EXPECT_EQ(unknown.NextStatus(), kServiceUnknown);
  server.server().BeginDrain();
  EXPECT_EQ(watch.NextStatus(), kNotServing);
}

TEST(Health, IsAnsweredWhileEveryLoadIsHeld) {
  LoaderServer server;
  server.WriteLarge();
  server.node().gpu().HoldCopies();
  TestContext context;
  const auto stream = server.stub().Load(&context);
  for (int i = 0; i < 8; ++i) {
    ASSERT_TRUE(stream->Write(StartRequest(std::to_string(i), server.Spec("m" + std::to_string(i)))));
  }
  server.node().gpu().WaitForCopiesStarted(1);
  EXPECT_EQ(Check(server.channel(), ""), kServing);
  server.node().gpu().ReleaseCopies();
  stream->WritesDone();
  ReadAll(*stream);
}

TEST(Health, APortOfItsOwnFollowsAndAnswersNothingElse) {
  LoaderServer node;
  TempDir dir;
  const auto server =
      RpcServer::Start({.listen = {"unix:" + dir.File("s")}, .health_listen = "127.0.0.1:0", .rpc = node.rpc()});
  ASSERT_TRUE(server.ok()) << server.status();
  const auto channel = grpc::CreateChannel((*server)->health_address(), grpc::InsecureChannelCredentials());
  Watch watch(channel, "readiness");
  EXPECT_EQ(watch.NextStatus(), kServing);
  TestContext context;
  v1::GetServerInfoResponse response;
  const auto stub = v1::ModelLoaderService::NewStub(channel);
  EXPECT_EQ(stub->GetServerInfo(&context, {}, &response).error_code(), grpc::StatusCode::UNIMPLEMENTED);
  (*server)->BeginDrain();
  EXPECT_EQ(watch.NextStatus(), kNotServing);
  EXPECT_EQ(Check(channel, "liveness"), kServing);
}

TEST(Health, APortThatIsTakenIsNamed) {
  LoaderServer node;
  TempDir dir;
  const auto first =
      RpcServer::Start({.listen = {"unix:" + dir.File("a")}, .health_listen = "127.0.0.1:0", .rpc = node.rpc()});
  const std::string address = (*first)->health_address();
  const auto second =
      RpcServer::Start({.listen = {"unix:" + dir.File("b")}, .health_listen = address, .rpc = node.rpc()});
  EXPECT_THAT(std::string(second.status().message()), testing::HasSubstr(address));
}

// The code of a call of the reflection service that ends without a request: OK where there is one.
grpc::StatusCode Reflection(const std::shared_ptr<grpc::Channel>& channel) {
  TestContext context;
  grpc::CompletionQueue queue;
  grpc::GenericStub stub(channel);
  const auto call =
      stub.PrepareCall(&context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  call->StartCall(nullptr);
  Next(queue);
  call->WritesDone(nullptr);
  Next(queue);
  grpc::Status status;
  call->Finish(&status, nullptr);
  Next(queue);
  return status.error_code();
}

TEST(Reflection, IsThereWhenAskedFor) {
  LoaderServer node;
  EXPECT_EQ(Reflection(node.channel()), grpc::StatusCode::UNIMPLEMENTED);
  TempDir dir;
  const auto server = RpcServer::Start({.listen = {"unix:" + dir.File("s")}, .reflection = true, .rpc = node.rpc()});
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_EQ(Reflection(grpc::CreateChannel("unix:" + dir.File("s"), grpc::InsecureChannelCredentials())),
            grpc::StatusCode::OK);
}

}  // namespace
}  // namespace keyload
