#include "server/rpc/model_loader_service.h"

#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/time/clock.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/base/utf8.h"
#include "server/rpc/convert_report.h"
#include "server/rpc/convert_spec.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/key_streams.h"
#include "server/rpc/limits.h"
#include "server/rpc/load_model_call.h"
#include "server/rpc/load_stream.h"
#include "server/rpc/page.h"
#include "server/rpc/unary_call.h"
#include "server/rpc/unload_call.h"
#include "server/rpc/upload_call.h"
#include "server/rpc/watch_models.h"
#include "server/service/page_cache_load.h"

namespace keyload {
ModelLoaderServiceImpl::ModelLoaderServiceImpl(const RpcContext& rpc) : rpc_(rpc), start_time_(absl::Now()) {}

grpc::ServerBidiReactor<grpc::ByteBuffer, v1::LoadResponse>* ModelLoaderServiceImpl::Load(
    grpc::CallbackServerContext* context) {
  return new LoadStream(rpc_, *context);
}

grpc::ServerUnaryReactor* ModelLoaderServiceImpl::LoadModel(grpc::CallbackServerContext* context,
                                                            const RequestPtr<v1::LoadModelRequest>& request,
                                                            v1::LoadModelResponse* response) {
  return StartLoadModel(rpc_, context, request, response);
}

grpc::ServerUnaryReactor* ModelLoaderServiceImpl::PlanLoad(grpc::CallbackServerContext* context,
                                                           const RequestPtr<v1::PlanLoadRequest>& request,
                                                           v1::PlanLoadResponse* response) {
  return UnaryCall::Start(
      rpc_, *rpc_.plans, context, response, [this, request, response](const RequestContext& call) -> absl::Status {
        KEYLOAD_ASSIGN_OR_RETURN(const LoadSpec spec, FromProto(request->spec(), &rpc_.service->device_maps()));
        KEYLOAD_ASSIGN_OR_RETURN(const LoadReport report, rpc_.service->Plan(spec, call));
        *response->mutable_report() = ToProto(report);
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* ModelLoaderServiceImpl::GetModel(grpc::CallbackServerContext* context,
                                                           const RequestPtr<v1::GetModelRequest>& request,
                                                           v1::GetModelResponse* response) {
  return UnaryCall::Start(
      rpc_, *rpc_.control, context, response,
      [this, request, response](const RequestContext& /*call*/) -> absl::Status {
        KEYLOAD_ASSIGN_OR_RETURN(const ModelInfo info, rpc_.service->registry().Info(request->model()));
        *response->mutable_model() = ToProto(info, /*with_map=*/true);
        if (info.model != nullptr) {
          response->mutable_model()->set_page_cache_bytes(RecentPageCacheBytes(info.model, *rpc_.measures));
        }
        return absl::OkStatus();
      });
}

// The page token is the last name of the page before: names are listed in order.
grpc::ServerUnaryReactor* ModelLoaderServiceImpl::ListModels(grpc::CallbackServerContext* context,
                                                             const RequestPtr<v1::ListModelsRequest>& request,
                                                             v1::ListModelsResponse* response) {
  const absl::StatusOr<size_t> page = PageSize(request->page_size());
  if (!page.ok()) return FinishNow(context, page.status());
  size_t bytes = 0;
  for (const ModelInfo& info : rpc_.service->registry().List()) {
    if (info.name <= request->page_token()) continue;
    v1::Model model = ToProto(info, /*with_map=*/false);
    bytes += model.ByteSizeLong();
    if (PageIsFull(static_cast<size_t>(response->models_size()), *page, bytes)) {
      response->set_next_page_token(response->models(response->models_size() - 1).name());
      break;
    }
    *response->add_models() = std::move(model);
  }
  return UnaryCall::Finished(rpc_, context, response, absl::OkStatus());
}

grpc::ServerWriteReactor<v1::WatchModelsResponse>* ModelLoaderServiceImpl::WatchModels(
    grpc::CallbackServerContext* context, const RequestPtr<v1::WatchModelsRequest>& request) {
  return StartWatchModels(rpc_, context, request);
}

grpc::ServerWriteReactor<v1::ListKeysResponse>* ModelLoaderServiceImpl::ListKeys(
    grpc::CallbackServerContext* context, const RequestPtr<v1::ListKeysRequest>& request) {
  return StartListKeys(rpc_, context, request);
}

grpc::ServerWriteReactor<v1::ReadTensorsResponse>* ModelLoaderServiceImpl::ReadTensors(
    grpc::CallbackServerContext* context, const RequestPtr<v1::ReadTensorsRequest>& request) {
  return StartReadTensors(rpc_, context, request);
}

grpc::ServerUnaryReactor* ModelLoaderServiceImpl::UnloadModel(grpc::CallbackServerContext* context,
                                                              const RequestPtr<v1::UnloadModelRequest>& request,
                                                              v1::UnloadModelResponse* response) {
  return StartUnloadModel(rpc_, context, request, response);
}

grpc::ServerReadReactor<grpc::ByteBuffer>* ModelLoaderServiceImpl::UploadDocument(
    grpc::CallbackServerContext* context, v1::UploadDocumentResponse* response) {
  return StartUploadDocument(rpc_, context, response);
}

grpc::ServerUnaryReactor* ModelLoaderServiceImpl::ListDevices(grpc::CallbackServerContext* context,
                                                              const RequestPtr<v1::ListDevicesRequest>& /*request*/,
                                                              v1::ListDevicesResponse* response) {
  const DeviceSet& devices = rpc_.service->devices();
  for (const std::unique_ptr<Device>& device : devices.devices()) *response->add_devices() = ToProto(*device);
  for (std::string& note : devices.notes()) response->add_notes(std::move(note));
  return UnaryCall::Finished(rpc_, context, response, absl::OkStatus());
}

grpc::ServerUnaryReactor* ModelLoaderServiceImpl::GetServerInfo(grpc::CallbackServerContext* context,
                                                                const RequestPtr<v1::GetServerInfoRequest>& /*request*/,
                                                                v1::GetServerInfoResponse* response) {
  using google::protobuf::util::TimeUtil;
  response->set_version(KEYLOAD_VERSION);
  for (const std::string& capability : rpc_.service->Capabilities()) response->add_capabilities(capability);
  auto& limits = *response->mutable_limits();
  constexpr std::pair<std::string_view, uint64_t> kOfCalls[] = {
      {"message_bytes", kMaxMessageBytes},
      {"streams_per_connection", kMaxStreamsPerConnection},
      {"loads_per_stream", kMaxLoadsPerStream},
  };
  for (const auto& [name, value] : kOfCalls) limits[std::string(name)] = value;
  for (const auto& [name, value] : rpc_.service->LimitValues()) limits[name] = value;
  for (const auto& [name, value] : rpc_.limits) limits[name] = value;
  for (const std::string& root : rpc_.service->roots()->roots()) response->add_roots(ToUtf8(root));
  *response->mutable_start_time() = TimeUtil::NanosecondsToTimestamp(absl::ToUnixNanos(start_time_));
  response->set_draining(rpc_.service->draining());
  for (const StuckMount& mount : rpc_.service->StuckStorage()) {
    v1::StuckStorage& stuck = *response->add_stuck_storage();
    stuck.set_mount(ToUtf8(mount.mount));
    stuck.set_operations(mount.operations);
    *stuck.mutable_longest() = TimeUtil::NanosecondsToDuration(absl::ToInt64Nanoseconds(mount.longest));
  }
  return UnaryCall::Finished(rpc_, context, response, absl::OkStatus());
}

}  // namespace keyload
