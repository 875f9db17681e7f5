#include <memory>

#include "server/base/error.h"
#include "server/rpc/audited_request.h"
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
                                                              const RequestPtr<v1::MaterializeRequest>& request,
                                                              v1::MaterializeResponse* response) {
  const auto audit = std::make_shared<AuditEntry>(AuditOf(*request));
  if (!request->request_id().empty()) {
    return FinishNow(
        rpc_, context,
        MakeError(Reason::kFieldNotSupported, "request_id is not supported yet", {{"field", "request_id"}}), *audit);
  }
  auto materialize = [this, request, response, audit,
                      clock = PhaseClock()](const RequestContext& call) mutable -> absl::Status {
    const absl::StatusOr<LoadReport> report = rpc_.service->Materialize(
        SelectionFrom(request->model(), request->select()), FromProto(request->limits()), call, clock);
    audit->load = report.ok() ? report->load : ErrorDetails(report.status())["load"];
    KEYLOAD_RETURN_IF_ERROR(report.status());
    audit->outcome = OutcomeName(report->outcome);
    *response->mutable_report() = ToProto(*report);
    return absl::OkStatus();
  };
  return UnaryCall::Start(rpc_, rpc_.service->loads(), context, response, std::move(materialize), audit);
}

grpc::ServerUnaryReactor* ModelLoaderServiceImpl::Evict(grpc::CallbackServerContext* context,
                                                        const RequestPtr<v1::EvictRequest>& request,
                                                        v1::EvictResponse* response) {
  const auto evict = [this, request, response](const RequestContext& call) -> absl::Status {
    KEYLOAD_ASSIGN_OR_RETURN(const Residency::Evicted evicted,
                             rpc_.service->Evict(SelectionFrom(request->model(), request->select()), call));
    response->set_tensors(evicted.tensors);
    response->set_bytes(evicted.bytes);
    return absl::OkStatus();
  };
  return UnaryCall::Start(rpc_, *rpc_.keys, context, response, evict, std::make_shared<AuditEntry>(AuditOf(*request)));
}

}  // namespace keyload
