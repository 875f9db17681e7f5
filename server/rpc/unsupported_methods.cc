#include <string>
#include <string_view>

#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/model_loader_service.h"
#include "server/rpc/unary_call.h"

// The contract's calls that this server does not answer yet. They are refused by name, so that a client learns which
// one it asked for.

namespace keyload {
namespace {

absl::Status NotSupported(std::string_view method) {
  return MakeError(Reason::kMethodNotSupported, StrCat(method, " is not supported yet"),
                   {{"method", std::string(method)}});
}

template <typename Response>
class RefusedStream : public grpc::ServerWriteReactor<Response> {
 public:
  explicit RefusedStream(std::string_view method) { this->Finish(ToGrpcStatus(NotSupported(method))); }
  void OnDone() override { delete this; }
};

}  // namespace

grpc::ServerUnaryReactor* ModelLoaderServiceImpl::AcquireLease(grpc::CallbackServerContext* context,
                                                               const v1::AcquireLeaseRequest*,
                                                               v1::AcquireLeaseResponse*) {
  return FinishNow(context, NotSupported("AcquireLease"));
}

grpc::ServerUnaryReactor* ModelLoaderServiceImpl::RenewLease(grpc::CallbackServerContext* context,
                                                             const v1::RenewLeaseRequest*, v1::RenewLeaseResponse*) {
  return FinishNow(context, NotSupported("RenewLease"));
}

grpc::ServerUnaryReactor* ModelLoaderServiceImpl::ReleaseLease(grpc::CallbackServerContext* context,
                                                               const v1::ReleaseLeaseRequest*,
                                                               v1::ReleaseLeaseResponse*) {
  return FinishNow(context, NotSupported("ReleaseLease"));
}

grpc::ServerUnaryReactor* ModelLoaderServiceImpl::ListLeases(grpc::CallbackServerContext* context,
                                                             const v1::ListLeasesRequest*, v1::ListLeasesResponse*) {
  return FinishNow(context, NotSupported("ListLeases"));
}

grpc::ServerUnaryReactor* ModelLoaderServiceImpl::SetDeviceMap(grpc::CallbackServerContext* context,
                                                               const v1::SetDeviceMapRequest*,
                                                               v1::SetDeviceMapResponse*) {
  return FinishNow(context, NotSupported("SetDeviceMap"));
}

grpc::ServerUnaryReactor* ModelLoaderServiceImpl::GetDeviceMap(grpc::CallbackServerContext* context,
                                                               const v1::GetDeviceMapRequest*,
                                                               v1::GetDeviceMapResponse*) {
  return FinishNow(context, NotSupported("GetDeviceMap"));
}

grpc::ServerUnaryReactor* ModelLoaderServiceImpl::ListDeviceMaps(grpc::CallbackServerContext* context,
                                                                 const v1::ListDeviceMapsRequest*,
                                                                 v1::ListDeviceMapsResponse*) {
  return FinishNow(context, NotSupported("ListDeviceMaps"));
}

grpc::ServerUnaryReactor* ModelLoaderServiceImpl::DeleteDeviceMap(grpc::CallbackServerContext* context,
                                                                  const v1::DeleteDeviceMapRequest*,
                                                                  v1::DeleteDeviceMapResponse*) {
  return FinishNow(context, NotSupported("DeleteDeviceMap"));
}

grpc::ServerWriteReactor<v1::WatchModelsResponse>* ModelLoaderServiceImpl::WatchModels(grpc::CallbackServerContext*,
                                                                                       const v1::WatchModelsRequest*) {
  return new RefusedStream<v1::WatchModelsResponse>("WatchModels");
}

}  // namespace keyload
