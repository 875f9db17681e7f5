#include <memory>

#include "server/base/error.h"
#include "server/rpc/convert_report.h"
#include "server/rpc/convert_spec.h"
#include "server/rpc/model_loader_service.h"
#include "server/rpc/unary_call.h"

// The calls that make keys of a loaded model resident or lazy.

namespace keyload {
namespace {

ModelSelection SelectionFrom(const std::string& model, const v1::KeySelection& select) {
  return {.model = model, .select = FromProto(select), .key_list_digest = select.key_list_digest()};
}

}  // namespace

grpc::ServerUnaryReactor* ModelLoaderServiceImpl::Materialize(grpc::CallbackServerContext* context,
                                                              const v1::MaterializeRequest* request,
                                                              v1::MaterializeResponse* response) {
  if (!request->request_id().empty()) {
    return FinishNow(
        context, MakeError(Reason::kFieldNotSupported, "request_id is not supported yet", {{"field", "request_id"}}));
  }
  return UnaryCall::Start(
      rpc_, rpc_.service->loads(), context,
      [this, request, response, clock = PhaseClock()](const RequestContext& call) mutable -> absl::Status {
        KEYLOAD_ASSIGN_OR_RETURN(const LoadReport report,
                                 rpc_.service->Materialize(SelectionFrom(request->model(), request->select()),
                                                           FromProto(request->limits()), call, clock));
        *response->mutable_report() = ToProto(report);
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* ModelLoaderServiceImpl::Evict(grpc::CallbackServerContext* context,
                                                        const v1::EvictRequest* request, v1::EvictResponse* response) {
  return UnaryCall::Start(
      rpc_, *rpc_.queries, context, [this, request, response](const RequestContext& /*call*/) -> absl::Status {
        KEYLOAD_ASSIGN_OR_RETURN(const Residency::Evicted evicted,
                                 rpc_.service->Evict(SelectionFrom(request->model(), request->select())));
        response->set_tensors(evicted.tensors);
        response->set_bytes(evicted.bytes);
        return absl::OkStatus();
      });
}

}  // namespace keyload
