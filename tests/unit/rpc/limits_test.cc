// What one client may ask of gRPC at a time, each at its edge.

#include "server/rpc/limits.h"

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "google/rpc/status.pb.h"
#include "tests/unit/rpc/loader_server.h"

namespace keyload {
namespace {

TEST(RpcLimits, AreTold) {
  LoaderServer server;
  TestContext context;
  v1::GetServerInfoResponse info;
  ASSERT_TRUE(server.stub().GetServerInfo(&context, {}, &info).ok());
  for (const char* name : {"message_bytes",
                           "streams_per_connection",
                           "connections",
                           "connections_per_peer",
                           "calls",
                           "calls_per_peer",
                           "watchers",
                           "send_bytes",
                           "send_bytes_per_peer",
                           "stream_bytes_per_minute",
                           "loads_per_stream",
                           "load_queue",
                           "concurrent_loads",
                           "uploads",
                           "document_bytes",
                           "request_memory_bytes",
                           "name_limit",
                           "key_list_keys",
                           "checkpoint_keys",
                           "header_memory_bytes",
                           "manifest_tensors",
                           "selection_globs",
                           "rule_patterns"}) {
    EXPECT_GT(info.limits().count(name), 0) << name;
  }
  EXPECT_EQ(info.limits().at("message_bytes"), kMaxMessageBytes);
}

// A request of exactly `bytes`.
v1::LoadModelRequest RequestOf(size_t bytes) {
  v1::LoadModelRequest request;
  request.mutable_spec()->set_model("m");
  request.mutable_spec()->set_dtype(std::string(bytes, 'x'));
  request.mutable_spec()->set_dtype(std::string(2 * bytes - request.ByteSizeLong(), 'x'));
  EXPECT_EQ(request.ByteSizeLong(), bytes);
  return request;
}

TEST(RpcLimits, AMessageOfTheLimitIsTakenAndOneByteMoreIsNot) {
  LoaderServer server;
  v1::LoadModelResponse response;
  TestContext context;
  const grpc::Status taken = server.stub().LoadModel(&context, RequestOf(kMaxMessageBytes), &response);
  EXPECT_EQ(InfoOf(taken).reason(), "DTYPE_NOT_SUPPORTED") << taken.error_message();
  TestContext next;
  const grpc::Status refused = server.stub().LoadModel(&next, RequestOf(kMaxMessageBytes + 1), &response);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(refused.error_details().empty()) << "gRPC's own";
}

TEST(RpcLimits, ACallBeyondTheStreamsOfAConnectionWaits) {
  LoaderServer node;
  const std::string address = "unix:" + node.socket() + "2";
  const auto server = RpcServer::Start({.listen = {address}, .rpc = node.rpc(), .max_streams = 2});
  ASSERT_TRUE(server.ok()) << server.status();
  const auto stub = v1::ModelLoaderService::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  const auto get_info = [&](std::chrono::milliseconds time) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + time);
    v1::GetServerInfoResponse info;
    return stub->GetServerInfo(&context, {}, &info);
  };
  TestContext first_context, second_context;
  const auto first = stub->Load(&first_context);
  ASSERT_TRUE(get_info(std::chrono::seconds(60)).ok()) << "the second of two";
  {
    const auto second = stub->Load(&second_context);
    // A message that is answered says that the stream is open.
    ASSERT_TRUE(second->Write(StartRequest("one", v1::LoadSpec())));
    v1::LoadResponse event;
    ASSERT_TRUE(second->Read(&event));
    EXPECT_EQ(get_info(std::chrono::milliseconds(200)).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
    second->WritesDone();
    EXPECT_FALSE(second->Read(&event));
    EXPECT_TRUE(second->Finish().ok());
  }
  EXPECT_TRUE(get_info(std::chrono::seconds(60)).ok());
  first->WritesDone();
  EXPECT_TRUE(first->Finish().ok());
}

TEST(RpcLimits, AnUploadBeyondThoseUnderWayIsToldWhenToComeAgain) {
  LoaderServer server;
  struct Upload {
    TestContext context;
    v1::UploadDocumentResponse response;
    std::unique_ptr<grpc::ClientWriter<v1::UploadDocumentRequest>> writer;
  };
  const size_t most = server.node().documents().options().max_uploads / 2;  // one caller's
  std::vector<std::unique_ptr<Upload>> uploads;
  v1::UploadDocumentRequest chunk;
  chunk.set_kind(v1::UploadDocumentRequest::KIND_KEY_LIST);
  chunk.set_data("key");
  const auto begin = [&] {
    uploads.push_back(std::make_unique<Upload>());
    Upload& upload = *uploads.back();
    upload.writer = server.stub().UploadDocument(&upload.context, &upload.response);
    upload.writer->Write(chunk);
  };
  while (uploads.size() < most) begin();
  while (server.server().open_calls() < most) std::this_thread::yield();
  begin();
  uploads.back()->writer->WritesDone();
  const grpc::Status refused = uploads.back()->writer->Finish();
  EXPECT_EQ(InfoOf(refused).reason(), "LOAD_QUEUE_FULL");
  uploads.pop_back();
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(refused.error_details()));
  EXPECT_EQ(details.details_size(), 2);
  for (const std::unique_ptr<Upload>& upload : uploads) {
    upload->writer->WritesDone();
    EXPECT_TRUE(upload->writer->Finish().ok());
  }
}

TEST(RpcLimits, AnUploadWhoseClientSendsNothingMoreIsCancelled) {
  LoaderServer server({}, std::chrono::milliseconds(20));
  TestContext context;
  v1::UploadDocumentResponse response;
  const auto writer = server.stub().UploadDocument(&context, &response);
  v1::UploadDocumentRequest chunk;
  chunk.set_kind(v1::UploadDocumentRequest::KIND_KEY_LIST);
  writer->Write(chunk);
  EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

}  // namespace
}  // namespace keyload
