#include "tests/unit/client/fake_server.h"

#include <cstdlib>
#include <filesystem>

#include "grpcpp/ext/health_check_service_server_builder_option.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "gtest/gtest.h"

namespace keyload {
namespace {

const grpc::Status& Unimplemented() {
  static const grpc::Status status(grpc::StatusCode::UNIMPLEMENTED, "the test has no answer");
  return status;
}

}  // namespace

grpc::Status FakeService::Load(grpc::ServerContext* context, LoadStream* stream) {
  return load ? load(context, stream) : Unimplemented();
}

grpc::Status FakeService::ListModels(grpc::ServerContext* context, const v1::ListModelsRequest* request,
                                     v1::ListModelsResponse* response) {
  return list_models ? list_models(context, *request, response) : Unimplemented();
}

grpc::Status FakeService::GetModel(grpc::ServerContext* context, const v1::GetModelRequest* request,
                                   v1::GetModelResponse* response) {
  return get_model ? get_model(context, *request, response) : Unimplemented();
}

grpc::Status FakeService::ListKeys(grpc::ServerContext* context, const v1::ListKeysRequest*,
                                   grpc::ServerWriter<v1::ListKeysResponse>* writer) {
  return list_keys ? list_keys(context, writer) : Unimplemented();
}

grpc::Status FakeService::Materialize(grpc::ServerContext* context, const v1::MaterializeRequest* request,
                                      v1::MaterializeResponse* response) {
  return materialize ? materialize(context, *request, response) : Unimplemented();
}

grpc::Status FakeService::Evict(grpc::ServerContext* context, const v1::EvictRequest* request,
                                v1::EvictResponse* response) {
  return evict ? evict(context, *request, response) : Unimplemented();
}

grpc::Status FakeService::UploadDocument(grpc::ServerContext*, grpc::ServerReader<v1::UploadDocumentRequest>* reader,
                                         v1::UploadDocumentResponse* response) {
  v1::UploadDocumentRequest chunk;
  while (reader->Read(&chunk)) uploaded.push_back(chunk);
  response->set_digest("sha256:fake");
  return grpc::Status::OK;
}

FakeServer::FakeServer() {
  folder_ = (std::filesystem::temp_directory_path() / "keyload-fake.XXXXXX").string();
  EXPECT_NE(::mkdtemp(folder_.data()), nullptr);
  address_ = "unix:" + folder_ + "/s";
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address_, grpc::InsecureServerCredentials());
  // A synchronous server now and then misses a wake-up and goes on when its poll ends: after ten seconds by default.
  builder.SetSyncServerOption(grpc::ServerBuilder::CQ_TIMEOUT_MSEC, 50);
  builder.RegisterService(&service_);
  server_ = builder.BuildAndStart();
  EXPECT_NE(server_, nullptr);
}

FakeServer::~FakeServer() {
  server_->Shutdown(std::chrono::system_clock::now());
  server_.reset();
  std::filesystem::remove_all(folder_);
}

void FakeServer::SetServing(bool serving) { server_->GetHealthCheckService()->SetServingStatus(serving); }

}  // namespace keyload
