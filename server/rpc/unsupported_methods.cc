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

absl::Status MethodNotSupported(std::string_view method) {
  return MakeError(Reason::kMethodNotSupported, StrCat(method, " is not supported yet"),
                   {{"method", std::string(method)}});
}

}  // namespace

grpc::ServerUnaryReactor* ModelLoaderServiceImpl::AcquireLease(grpc::CallbackServerContext* context,
                                                               const RequestPtr<v1::AcquireLeaseRequest>&,
                                                               v1::AcquireLeaseResponse*) {
  return FinishNow(context, MethodNotSupported("AcquireLease"));
}

grpc::ServerUnaryReactor* ModelLoaderServiceImpl::RenewLease(grpc::CallbackServerContext* context,
                                                             const RequestPtr<v1::RenewLeaseRequest>&,
                                                             v1::RenewLeaseResponse*) {
  return FinishNow(context, MethodNotSupported("RenewLease"));
}

grpc::ServerUnaryReactor* ModelLoaderServiceImpl::ReleaseLease(grpc::CallbackServerContext* context,
                                                               const RequestPtr<v1::ReleaseLeaseRequest>&,
                                                               v1::ReleaseLeaseResponse*) {
  return FinishNow(context, MethodNotSupported("ReleaseLease"));
}

grpc::ServerUnaryReactor* ModelLoaderServiceImpl::ListLeases(grpc::CallbackServerContext* context,
                                                             const RequestPtr<v1::ListLeasesRequest>&,
                                                             v1::ListLeasesResponse*) {
  return FinishNow(context, MethodNotSupported("ListLeases"));
}

}  // namespace keyload
