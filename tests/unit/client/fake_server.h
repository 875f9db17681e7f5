#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "grpcpp/server.h"
#include "keyload/v1/model_loader.grpc.pb.h"

namespace keyload {

using LoadStream = grpc::ServerReaderWriter<v1::LoadResponse, v1::LoadRequest>;

// A server whose answers the test writes. Members that are not set answer UNIMPLEMENTED.
class FakeService : public v1::ModelLoaderService::Service {
 public:
  std::function<grpc::Status(grpc::ServerContext*, LoadStream*)> load;
  std::function<grpc::Status(grpc::ServerContext*, const v1::ListModelsRequest&, v1::ListModelsResponse*)> list_models;
  std::function<grpc::Status(grpc::ServerContext*, const v1::GetModelRequest&, v1::GetModelResponse*)> get_model;
  std::function<grpc::Status(grpc::ServerContext*, grpc::ServerWriter<v1::ListKeysResponse>*)> list_keys;
  std::function<grpc::Status(grpc::ServerContext*, const v1::MaterializeRequest&, v1::MaterializeResponse*)>
      materialize;
  std::function<grpc::Status(grpc::ServerContext*, const v1::EvictRequest&, v1::EvictResponse*)> evict;
  std::vector<v1::UploadDocumentRequest> uploaded;

 private:
  grpc::Status Load(grpc::ServerContext* context, LoadStream* stream) override;
  grpc::Status ListModels(grpc::ServerContext* context, const v1::ListModelsRequest* request,
                          v1::ListModelsResponse* response) override;
  grpc::Status GetModel(grpc::ServerContext* context, const v1::GetModelRequest* request,
                        v1::GetModelResponse* response) override;
  grpc::Status ListKeys(grpc::ServerContext* context, const v1::ListKeysRequest* request,
                        grpc::ServerWriter<v1::ListKeysResponse>* writer) override;
  grpc::Status Materialize(grpc::ServerContext* context, const v1::MaterializeRequest* request,
                           v1::MaterializeResponse* response) override;
  grpc::Status Evict(grpc::ServerContext* context, const v1::EvictRequest* request,
                     v1::EvictResponse* response) override;
  grpc::Status UploadDocument(grpc::ServerContext* context, grpc::ServerReader<v1::UploadDocumentRequest>* reader,
                              v1::UploadDocumentResponse* response) override;
};

// FakeService on a Unix socket in a folder of its own, with the standard health service.
class FakeServer {
 public:
  FakeServer();
  ~FakeServer();

  FakeService& service() { return service_; }
  const std::string& address() const { return address_; }
  void SetServing(bool serving);

 private:
  std::string folder_;
  std::string address_;
  FakeService service_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace keyload
