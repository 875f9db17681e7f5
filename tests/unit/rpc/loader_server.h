#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "google/rpc/error_details.pb.h"
#include "keyload/v1/model_loader.grpc.pb.h"
#include "server/rpc/rpc_server.h"
#include "tests/unit/service/loader_node.h"

namespace keyload {

using ClientStream = grpc::ClientReaderWriter<v1::LoadRequest, v1::LoadResponse>;

// An RpcServer over a LoaderNode on a Unix socket of its own, and a client of it.
class LoaderServer {
 public:
  LoaderServer() : LoaderServer(LoaderNode::Options()) {}
  explicit LoaderServer(const LoaderNode::Options& options,
                        std::chrono::milliseconds unread_limit = std::chrono::hours(1));
  // Lets held copies go first.
  ~LoaderServer();

  LoaderNode& node() { return node_; }
  RpcServer& server() { return *server_; }
  v1::ModelLoaderService::Stub& stub() { return *stub_; }
  const std::shared_ptr<grpc::Channel>& channel() { return channel_; }
  std::string socket() const { return sockets_.File("s"); }
  RpcContext rpc() {
    return {.service = &node_.service(),
            .control = &queries_,
            .starts = &queries_,
            .plans = &queries_,
            .keys = &queries_,
            .maps = &queries_,
            .reads = &reads_,
            .unloads = &unloads_,
            .measures = &queries_};
  }

  // A request for the checkpoint of the node, on its GPU.
  v1::LoadSpec Spec(const std::string& model = "m") const;
  // Loads it and expects that to work.
  v1::LoadReport Load(const v1::LoadSpec& spec);
  // One F32 tensor "a" of 64 elements.
  void WriteSmall();
  // One U8 tensor "a" of 48 MiB: a load of it is still in its transfer when its copies are held.
  void WriteLarge();
  // Blocks until no load is queued or running.
  void WaitForNoLoad();

 private:
  TempDir sockets_;
  LoaderNode node_;
  Executor queries_;
  Executor reads_;
  Executor unloads_;
  std::unique_ptr<RpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::ModelLoaderService::Stub> stub_;
};

// A call that gives up instead of hanging a test.
class TestContext : public grpc::ClientContext {
 public:
  TestContext();
};

// The one ErrorInfo of a status; a test failure when there is not exactly one.
google::rpc::ErrorInfo InfoOf(const grpc::Status& status);

v1::LoadRequest StartRequest(const std::string& load_id, const v1::LoadSpec& spec);
v1::LoadRequest CancelRequest(const std::string& load_id);
// Every event of the stream up to its end, in order.
std::vector<v1::LoadResponse> ReadAll(ClientStream& stream);
// The report or error that ended `load_id`; a test failure when there is not exactly one.
v1::LoadResponse EndOf(const std::vector<v1::LoadResponse>& events, const std::string& load_id);

}  // namespace keyload
