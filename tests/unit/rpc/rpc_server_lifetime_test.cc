// Listening, and the way down.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "server/base/error.h"
#include "tests/unit/rpc/loader_server.h"

namespace keyload {
namespace {

using testing::HasSubstr;

TEST(RpcServer, DrainingEndsAnIdleStream) {
  LoaderServer server;
  server.WriteSmall();
  TestContext context;
  const auto stream = server.stub().Load(&context);
  // Once a load has ended, the stream is idle for sure.
  ASSERT_TRUE(stream->Write(StartRequest("one", server.Spec())));
  v1::LoadResponse event;
  while (!event.has_report()) ASSERT_TRUE(stream->Read(&event));
  server.server().BeginDrain();
  EXPECT_FALSE(stream->Read(&event));
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(InfoOf(status).reason(), "DRAINING");
}

TEST(RpcServer, AStreamThatIsOpenedWhileTheServerDrainsEndsAtOnce) {
  LoaderServer server;
  server.server().BeginDrain();
  TestContext context;
  const auto stream = server.stub().Load(&context);
  EXPECT_TRUE(ReadAll(*stream).empty());
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(InfoOf(status).reason(), "DRAINING");
}

TEST(RpcServer, DrainingLetsARunningLoadFinish) {
  LoaderServer server;
  server.WriteSmall();
  server.node().gpu().HoldCopies();
  TestContext context;
  const auto stream = server.stub().Load(&context);
  ASSERT_TRUE(stream->Write(StartRequest("one", server.Spec())));
  server.node().gpu().WaitForCopiesStarted(1);
  server.server().BeginDrain();
  server.node().gpu().ReleaseCopies();
  EXPECT_EQ(EndOf(ReadAll(*stream), "one").report().outcome(), v1::LoadReport::OUTCOME_COMPLETE);
  EXPECT_EQ(InfoOf(stream->Finish()).reason(), "DRAINING");
}

TEST(RpcServer, DrainingRefusesANewLoad) {
  LoaderServer server;
  server.server().BeginDrain();
  TestContext context;
  v1::LoadModelRequest request;
  *request.mutable_spec() = server.Spec();
  v1::LoadModelResponse response;
  const grpc::Status status = server.stub().LoadModel(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(InfoOf(status).reason(), "DRAINING");
}

TEST(RpcServer, CancellingCallsEndsARunningLoad) {
  LoaderServer server;
  server.WriteLarge();
  server.node().gpu().HoldCopies();
  TestContext context;
  const auto stream = server.stub().Load(&context);
  ASSERT_TRUE(stream->Write(StartRequest("one", server.Spec())));
  stream->WritesDone();
  server.node().gpu().WaitForCopiesStarted(1);
  server.server().CancelCalls();
  server.node().gpu().ReleaseCopies();
  EXPECT_EQ(EndOf(ReadAll(*stream), "one").report().outcome(), v1::LoadReport::OUTCOME_CANCELLED);
}

TEST(RpcServer, ASecondOneOnTheSameSocketFails) {
  LoaderServer server;
  const auto second = RpcServer::Start({.listen = {"unix:" + server.socket()}, .rpc = server.rpc()});
  EXPECT_EQ(ErrorReason(second.status()), Reason::kBadRequest);
  EXPECT_THAT(std::string(second.status().message()),
              testing::AllOf(HasSubstr(server.socket()), HasSubstr("another keyloadd listens there")));
}

TEST(RpcServer, ASecondOneLeavesTheFirstAnswering) {
  LoaderServer server;
  ASSERT_FALSE(RpcServer::Start({.listen = {"unix:" + server.socket()}, .rpc = server.rpc()}).ok());
  TestContext context;
  v1::GetServerInfoResponse response;
  EXPECT_TRUE(server.stub().GetServerInfo(&context, {}, &response).ok());
}

TEST(RpcServer, ASecondOneOnTheSamePortFails) {
  LoaderServer node;
  const auto first = RpcServer::Start({.listen = {"127.0.0.1:0"}, .rpc = node.rpc()});
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_EQ((*first)->addresses().size(), 1);
  const std::string address = (*first)->addresses()[0];
  EXPECT_NE(address, "127.0.0.1:0");
  const auto second = RpcServer::Start({.listen = {address}, .rpc = node.rpc()});
  EXPECT_EQ(ErrorReason(second.status()), Reason::kBadRequest);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(address));
}

TEST(RpcServer, ASocketThatADeadDaemonLeftIsTaken) {
  LoaderServer node;
  TempDir dir;
  WriteFile(dir.File("s.lock"), "");
  { const auto dead = RpcServer::Start({.listen = {"unix:" + dir.File("s")}, .rpc = node.rpc()}); }
  EXPECT_TRUE(RpcServer::Start({.listen = {"unix:" + dir.File("s")}, .rpc = node.rpc()}).ok());
}

TEST(RpcServer, MakesTheFolderOfItsSocket) {
  LoaderServer node;
  TempDir dir;
  EXPECT_TRUE(RpcServer::Start({.listen = {"unix:" + dir.File("run/keyload/s")}, .rpc = node.rpc()}).ok());
}

TEST(RpcServer, TheSocketIsForOwnerAndGroup) {
  LoaderServer server;
  EXPECT_EQ(std::filesystem::status(server.socket()).permissions(), std::filesystem::perms(0660));
}

TEST(RpcServer, EndingItWithAnOpenStreamEndsTheStream) {
  grpc::Status status;
  TestContext context;
  std::unique_ptr<ClientStream> stream;
  std::unique_ptr<v1::ModelLoaderService::Stub> stub;
  {
    LoaderServer server;
    server.WriteSmall();
    stub = v1::ModelLoaderService::NewStub(server.channel());
    stream = stub->Load(&context);
    ASSERT_TRUE(stream->Write(StartRequest("one", server.Spec())));
    v1::LoadResponse event;
    while (!event.has_report()) ASSERT_TRUE(stream->Read(&event));
  }
  ReadAll(*stream);
  EXPECT_FALSE(stream->Finish().ok());
}

}  // namespace
}  // namespace keyload
