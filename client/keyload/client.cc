#include "keyload/client.h"

#include <algorithm>
#include <future>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/keyload/call_context.h"
#include "client/keyload/call_status.h"
#include "client/keyload/channel.h"
#include "client/keyload/load_call.h"
#include "google/protobuf/wrappers.pb.h"
#include "grpcpp/channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "keyload/v1/model_loader.grpc.pb.h"

namespace keyload {
namespace {

using client_internal::CallContext;
using client_internal::FromGrpc;
using client_internal::LoadCall;
using Stub = v1::ModelLoaderService::Stub;

constexpr size_t kUploadChunkBytes = 1 << 20;
constexpr int kPageSize = 1000;

// HealthCheckRequest{string service = 1} and HealthCheckResponse{enum status = 1} are on the wire what the well-known
// wrappers are. A generated grpc.health.v1 of our own would clash with the one of a program that links this library.
using HealthStub = grpc::TemplatedGenericStub<google::protobuf::StringValue, google::protobuf::Int32Value>;

template <typename Request, typename Response>
absl::StatusOr<Response> Unary(Stub& stub,
                               grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                               const Request& request, const CallOptions& options) {
  CallContext context(options);
  Response response;
  grpc::Status status = (stub.*method)(context.get(), request, &response);
  if (!status.ok()) return FromGrpc(status);
  return response;
}

template <typename Response>
absl::StatusOr<v1::LoadReport> TakeReport(absl::StatusOr<Response> response) {
  if (!response.ok()) return std::move(response).status();
  return std::move(*response->mutable_report());
}

// The options of the next call of several that share one timeout.
CallOptions Remaining(const CallOptions& options, absl::Time started) {
  CallOptions rest = options;
  rest.timeout = std::max(options.timeout - (absl::Now() - started), absl::ZeroDuration());
  return rest;
}

// Reads a server stream to its end, or until `on_message` fails, which ends the call.
template <typename Message, typename Reader, typename OnMessage>
absl::Status ReadAll(CallContext& context, Reader& reader, OnMessage on_message) {
  Message message;
  absl::Status stopped;
  while (stopped.ok() && reader.Read(&message)) {
    stopped = on_message(message);
    if (!stopped.ok()) context.get()->TryCancel();
  }
  grpc::Status status = reader.Finish();
  return stopped.ok() ? FromGrpc(status) : stopped;
}

}  // namespace

struct Client::Impl {
  explicit Impl(std::shared_ptr<grpc::Channel> channel)
      : stub(v1::ModelLoaderService::NewStub(channel)), health(channel) {}

  std::unique_ptr<Stub> stub;
  HealthStub health;
};

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::~Client() = default;

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(const ClientOptions& options) {
  auto channel = client_internal::MakeChannel(options);
  if (!channel.ok()) return channel.status();
  return std::unique_ptr<Client>(new Client(std::make_unique<Impl>(*std::move(channel))));
}

absl::StatusOr<v1::LoadReport> Client::Load(const v1::LoadSpec& spec, const LoadCallbacks& callbacks,
                                            const CallOptions& options) {
  LoadCall call(*impl_->stub, callbacks, options, LoadCall::Until::kReport);
  if (absl::Status status = call.Run(spec); !status.ok()) return status;
  return *call.report();
}

absl::StatusOr<v1::LoadAccepted> Client::StartLoad(const v1::LoadSpec& spec, const CallOptions& options) {
  if (!spec.detach())
    return absl::InvalidArgumentError("StartLoad needs spec.detach: the load would end with the call");
  LoadCallbacks none;
  LoadCall call(*impl_->stub, none, options, LoadCall::Until::kAccepted);
  if (absl::Status status = call.Run(spec); !status.ok()) return status;
  if (!call.accepted()) return absl::InternalError("the server ended the load without accepting it");
  return *call.accepted();
}

absl::StatusOr<v1::LoadReport> Client::LoadModel(const v1::LoadSpec& spec, const CallOptions& options) {
  v1::LoadModelRequest request;
  *request.mutable_spec() = spec;
  return TakeReport(Unary(*impl_->stub, &Stub::LoadModel, request, options));
}

absl::StatusOr<v1::LoadReport> Client::PlanLoad(const v1::LoadSpec& spec, const CallOptions& options) {
  v1::PlanLoadRequest request;
  *request.mutable_spec() = spec;
  return TakeReport(Unary(*impl_->stub, &Stub::PlanLoad, request, options));
}

absl::StatusOr<v1::UnloadModelResponse> Client::UnloadModel(std::string_view model, const CallOptions& options) {
  v1::UnloadModelRequest request;
  request.set_model(std::string(model));
  return Unary(*impl_->stub, &Stub::UnloadModel, request, options);
}

absl::StatusOr<v1::Model> Client::GetModel(std::string_view model, const CallOptions& options) {
  v1::GetModelRequest request;
  request.set_model(std::string(model));
  auto response = Unary(*impl_->stub, &Stub::GetModel, request, options);
  if (!response.ok()) return std::move(response).status();
  return std::move(*response->mutable_model());
}

absl::StatusOr<std::vector<v1::Model>> Client::ListModels(const CallOptions& options) {
  absl::Time started = absl::Now();
  std::vector<v1::Model> models;
  v1::ListModelsRequest request;
  request.set_page_size(kPageSize);
  do {
    auto page = Unary(*impl_->stub, &Stub::ListModels, request, Remaining(options, started));
    if (!page.ok()) return std::move(page).status();
    for (v1::Model& model : *page->mutable_models()) models.push_back(std::move(model));
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty());
  return models;
}

absl::Status Client::WatchModels(const v1::WatchModelsRequest& request,
                                 absl::FunctionRef<absl::Status(const v1::WatchModelsResponse&)> on_change,
                                 const CallOptions& options) {
  CallContext context(options);
  auto reader = impl_->stub->WatchModels(context.get(), request);
  return ReadAll<v1::WatchModelsResponse>(context, *reader, on_change);
}

absl::Status Client::ListKeys(const v1::ListKeysRequest& request,
                              absl::FunctionRef<absl::Status(const v1::ListKeysResponse&)> on_chunk,
                              const CallOptions& options) {
  CallContext context(options);
  auto reader = impl_->stub->ListKeys(context.get(), request);
  return ReadAll<v1::ListKeysResponse>(context, *reader, on_chunk);
}

absl::Status Client::ReadTensors(const v1::ReadTensorsRequest& request,
                                 absl::FunctionRef<absl::Status(const v1::ReadTensorsResponse&)> on_chunk,
                                 const CallOptions& options) {
  CallContext context(options);
  auto reader = impl_->stub->ReadTensors(context.get(), request);
  return ReadAll<v1::ReadTensorsResponse>(context, *reader, on_chunk);
}

absl::StatusOr<v1::UploadDocumentResponse> Client::UploadDocument(v1::UploadDocumentRequest::Kind kind,
                                                                  std::string_view document,
                                                                  const CallOptions& options) {
  CallContext context(options);
  v1::UploadDocumentResponse response;
  auto writer = impl_->stub->UploadDocument(context.get(), &response);
  v1::UploadDocumentRequest chunk;
  chunk.set_kind(kind);
  size_t sent = 0;
  do {
    std::string_view piece = document.substr(sent, kUploadChunkBytes);
    chunk.set_data(piece.data(), piece.size());
    if (!writer->Write(chunk)) break;  // the reason is in the final status
    sent += piece.size();
    chunk.clear_kind();
  } while (sent < document.size());
  writer->WritesDone();
  grpc::Status status = writer->Finish();
  if (!status.ok()) return FromGrpc(status);
  return response;
}

absl::StatusOr<v1::ListDevicesResponse> Client::ListDevices(const CallOptions& options) {
  return Unary(*impl_->stub, &Stub::ListDevices, v1::ListDevicesRequest(), options);
}

absl::StatusOr<v1::GetServerInfoResponse> Client::GetServerInfo(const CallOptions& options) {
  return Unary(*impl_->stub, &Stub::GetServerInfo, v1::GetServerInfoRequest(), options);
}

absl::StatusOr<ServingStatus> Client::Health(std::string_view service, const CallOptions& options) {
  CallContext context(options);
  google::protobuf::StringValue request;
  request.set_value(std::string(service));
  google::protobuf::Int32Value response;
  std::promise<grpc::Status> done;
  impl_->health.UnaryCall(context.get(), "/grpc.health.v1.Health/Check", grpc::StubOptions(), &request, &response,
                          [&done](grpc::Status status) { done.set_value(std::move(status)); });
  grpc::Status status = done.get_future().get();
  if (status.error_code() == grpc::StatusCode::NOT_FOUND) return ServingStatus::kServiceUnknown;
  if (!status.ok()) return FromGrpc(status);
  if (response.value() < 0 || response.value() > static_cast<int>(ServingStatus::kServiceUnknown)) {
    return ServingStatus::kUnknown;
  }
  return static_cast<ServingStatus>(response.value());
}

absl::StatusOr<v1::LoadReport> Client::Materialize(const v1::MaterializeRequest& request, const CallOptions& options) {
  return TakeReport(Unary(*impl_->stub, &Stub::Materialize, request, options));
}

absl::StatusOr<v1::EvictResponse> Client::Evict(const v1::EvictRequest& request, const CallOptions& options) {
  return Unary(*impl_->stub, &Stub::Evict, request, options);
}

absl::StatusOr<std::vector<v1::LoadStatus>> Client::ListLoads(const CallOptions& options) {
  absl::Time started = absl::Now();
  std::vector<v1::LoadStatus> loads;
  v1::ListLoadsRequest request;
  request.set_page_size(kPageSize);
  do {
    auto page = Unary(*impl_->stub, &Stub::ListLoads, request, Remaining(options, started));
    if (!page.ok()) return std::move(page).status();
    for (v1::LoadStatus& load : *page->mutable_loads()) loads.push_back(std::move(load));
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty());
  return loads;
}

absl::Status Client::CancelLoad(std::string_view load, const CallOptions& options) {
  v1::CancelLoadRequest request;
  request.set_load(std::string(load));
  return Unary(*impl_->stub, &Stub::CancelLoad, request, options).status();
}

absl::StatusOr<v1::LoadStatus> Client::WatchLoad(std::string_view load, const LoadCallbacks& callbacks,
                                                 const CallOptions& options) {
  CallContext context(options);
  v1::WatchLoadRequest request;
  request.set_load(std::string(load));
  auto reader = impl_->stub->WatchLoad(context.get(), request);
  std::optional<v1::LoadStatus> end;
  absl::Status status = ReadAll<v1::WatchLoadResponse>(context, *reader, [&](const v1::WatchLoadResponse& message) {
    if (message.status().done()) end = message.status();
    if (message.status().has_progress() && callbacks.on_progress) callbacks.on_progress(message.status().progress());
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  if (!end)
    return absl::InternalError(
        absl::StrCat("load ", std::string(load), ": the server ended the stream before its end"));
  return *std::move(end);
}

absl::StatusOr<v1::ListLeasesResponse> Client::ListLeases(std::string_view model, const CallOptions& options) {
  absl::Time started = absl::Now();
  v1::ListLeasesResponse all;
  v1::ListLeasesRequest request;
  request.set_model(std::string(model));
  request.set_page_size(kPageSize);
  do {
    auto page = Unary(*impl_->stub, &Stub::ListLeases, request, Remaining(options, started));
    if (!page.ok()) return std::move(page).status();
    for (v1::Lease& lease : *page->mutable_leases()) *all.add_leases() = std::move(lease);
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty());
  return all;
}

absl::StatusOr<v1::NamedDeviceMap> Client::SetDeviceMap(const v1::NamedDeviceMap& map, const CallOptions& options) {
  v1::SetDeviceMapRequest request;
  *request.mutable_device_map() = map;
  auto response = Unary(*impl_->stub, &Stub::SetDeviceMap, request, options);
  if (!response.ok()) return std::move(response).status();
  return std::move(*response->mutable_device_map());
}

absl::StatusOr<v1::NamedDeviceMap> Client::GetDeviceMap(std::string_view name, const CallOptions& options) {
  v1::GetDeviceMapRequest request;
  request.set_name(std::string(name));
  auto response = Unary(*impl_->stub, &Stub::GetDeviceMap, request, options);
  if (!response.ok()) return std::move(response).status();
  return std::move(*response->mutable_device_map());
}

absl::StatusOr<v1::ListDeviceMapsResponse> Client::ListDeviceMaps(const CallOptions& options) {
  absl::Time started = absl::Now();
  v1::ListDeviceMapsResponse all;
  v1::ListDeviceMapsRequest request;
  request.set_page_size(kPageSize);
  do {
    auto page = Unary(*impl_->stub, &Stub::ListDeviceMaps, request, Remaining(options, started));
    if (!page.ok()) return std::move(page).status();
    for (v1::NamedDeviceMap& map : *page->mutable_device_maps()) *all.add_device_maps() = std::move(map);
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty());
  return all;
}

absl::Status Client::DeleteDeviceMap(std::string_view name, const CallOptions& options) {
  v1::DeleteDeviceMapRequest request;
  request.set_name(std::string(name));
  return Unary(*impl_->stub, &Stub::DeleteDeviceMap, request, options).status();
}

}  // namespace keyload
