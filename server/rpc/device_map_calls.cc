#include "server/base/error.h"
#include "server/rpc/audited_request.h"
#include "server/rpc/convert_device_map.h"
#include "server/rpc/model_loader_service.h"
#include "server/rpc/page.h"
#include "server/rpc/unary_call.h"

// The calls about device maps that are kept by name. Changes may be written to a disk.

namespace keyload {

grpc::ServerUnaryReactor* ModelLoaderServiceImpl::SetDeviceMap(grpc::CallbackServerContext* context,
                                                               const RequestPtr<v1::SetDeviceMapRequest>& request,
                                                               v1::SetDeviceMapResponse* response) {
  const auto set = [this, request, response](const RequestContext& call) -> absl::Status {
    KEYLOAD_ASSIGN_OR_RETURN(NamedDeviceMap map, FromProto(request->device_map()));
    KEYLOAD_ASSIGN_OR_RETURN(const NamedDeviceMap kept, rpc_.service->SetDeviceMap(std::move(map), call.caller.get()));
    *response->mutable_device_map() = ToProto(kept);
    return absl::OkStatus();
  };
  return UnaryCall::Start(rpc_, *rpc_.maps, context, response, set, std::make_shared<AuditEntry>(AuditOf(*request)));
}

grpc::ServerUnaryReactor* ModelLoaderServiceImpl::GetDeviceMap(grpc::CallbackServerContext* context,
                                                               const RequestPtr<v1::GetDeviceMapRequest>& request,
                                                               v1::GetDeviceMapResponse* response) {
  const absl::StatusOr<NamedDeviceMap> map = rpc_.service->device_maps().Get(request->name());
  if (map.ok()) *response->mutable_device_map() = ToProto(*map);
  return UnaryCall::Finished(rpc_, context, response, map.status());
}

// The page token is the last name of the page before: maps are listed in order of their names.
grpc::ServerUnaryReactor* ModelLoaderServiceImpl::ListDeviceMaps(grpc::CallbackServerContext* context,
                                                                 const RequestPtr<v1::ListDeviceMapsRequest>& request,
                                                                 v1::ListDeviceMapsResponse* response) {
  const absl::StatusOr<size_t> page = PageSize(request->page_size());
  if (!page.ok()) return FinishNow(context, page.status());
  size_t bytes = 0;
  for (const NamedDeviceMap& map : rpc_.service->device_maps().List(request->page_token(), *page + 1)) {
    v1::NamedDeviceMap message = ToProto(map);
    bytes += message.ByteSizeLong();
    if (PageIsFull(static_cast<size_t>(response->device_maps_size()), *page, bytes)) {
      response->set_next_page_token(response->device_maps(response->device_maps_size() - 1).name());
      break;
    }
    *response->add_device_maps() = std::move(message);
  }
  return UnaryCall::Finished(rpc_, context, response, absl::OkStatus());
}

grpc::ServerUnaryReactor* ModelLoaderServiceImpl::DeleteDeviceMap(grpc::CallbackServerContext* context,
                                                                  const RequestPtr<v1::DeleteDeviceMapRequest>& request,
                                                                  v1::DeleteDeviceMapResponse* response) {
  const auto remove = [this, request](const RequestContext& call) {
    return rpc_.service->DeleteDeviceMap(request->name(), request->etag(), call.caller.get());
  };
  return UnaryCall::Start(rpc_, *rpc_.maps, context, response, remove, std::make_shared<AuditEntry>(AuditOf(*request)));
}

}  // namespace keyload
