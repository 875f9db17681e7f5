#include "tests/unit/rpc/loader_server.h"

#include <grpc/grpc.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "google/rpc/status.pb.h"

namespace keyload {
namespace {

// gRPC 1.51 ends with its last object, and its end may wait ten seconds for a poll of its own: keep it until the
// process ends.
const std::string& KeepGrpc(const std::string& address) {
  static const bool kept = (grpc_init(), true);
  (void)kept;
  return address;
}

}  // namespace

LoaderServer::LoaderServer(const LoaderNode::Options& options, std::chrono::milliseconds unread_limit)
    : node_(options),
      queries_({.name = "query", .threads = 2, .queue_limit = 16}),
      reads_({.name = "reads", .threads = 2, .queue_limit = 16}),
      unloads_({.name = "unload", .threads = 1, .queue_limit = 16}),
      server_(RpcServer::Start({.listen = {KeepGrpc("unix:" + socket())}, .rpc = rpc(), .unread_limit = unread_limit})
                  .value()),
      channel_(grpc::CreateChannel("unix:" + socket(), grpc::InsecureChannelCredentials())),
      stub_(v1::ModelLoaderService::NewStub(channel_)) {}

LoaderServer::~LoaderServer() {
  node_.gpu().ReleaseCopies();
  server_.reset();
}

v1::LoadSpec LoaderServer::Spec(const std::string& model) const {
  v1::LoadSpec spec;
  spec.set_model(model);
  spec.mutable_source()->set_path(node_.dir());
  spec.mutable_device_map()->set_policy("cuda:0");
  return spec;
}

v1::LoadReport LoaderServer::Load(const v1::LoadSpec& spec) {
  TestContext context;
  v1::LoadModelRequest request;
  *request.mutable_spec() = spec;
  v1::LoadModelResponse response;
  const grpc::Status status = stub_->LoadModel(&context, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response.report();
}

void LoaderServer::WriteSmall() {
  WriteSafetensors(node_.dir() + "/model.safetensors",
                   {{.name = "a", .dtype = DType::kF32, .shape = {64}, .data = ""}});
}

void LoaderServer::WriteLarge() {
  WriteSafetensors(node_.dir() + "/model.safetensors",
                   {{.name = "a", .dtype = DType::kU8, .shape = {48 << 20}, .data = ""}});
}

void LoaderServer::WaitForNoLoad() {
  while (node_.service().active_loads() > 0) std::this_thread::yield();
}

TestContext::TestContext() { set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60)); }

google::rpc::ErrorInfo InfoOf(const grpc::Status& status) {
  google::rpc::Status details;
  google::rpc::ErrorInfo info;
  EXPECT_TRUE(details.ParseFromString(status.error_details()));
  int infos = 0;
  for (const google::protobuf::Any& detail : details.details()) infos += detail.UnpackTo(&info) ? 1 : 0;
  EXPECT_EQ(infos, 1) << status.error_message();
  return info;
}

v1::LoadRequest StartRequest(const std::string& load_id, const v1::LoadSpec& spec) {
  v1::LoadRequest request;
  request.set_load_id(load_id);
  *request.mutable_start() = spec;
  return request;
}

v1::LoadRequest CancelRequest(const std::string& load_id) {
  v1::LoadRequest request;
  request.set_load_id(load_id);
  request.mutable_cancel();
  return request;
}

std::vector<v1::LoadResponse> ReadAll(ClientStream& stream) {
  std::vector<v1::LoadResponse> events;
  v1::LoadResponse event;
  while (stream.Read(&event)) events.push_back(event);
  return events;
}

v1::LoadResponse EndOf(const std::vector<v1::LoadResponse>& events, const std::string& load_id) {
  v1::LoadResponse end;
  int ends = 0;
  for (const v1::LoadResponse& event : events) {
    if (event.load_id() != load_id || !(event.has_report() || event.has_error())) continue;
    end = event;
    ++ends;
  }
  EXPECT_EQ(ends, 1) << load_id;
  return end;
}

}  // namespace keyload
