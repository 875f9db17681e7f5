#include "server/rpc/guarded_service.h"

#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/no_throw.h"
#include "server/rpc/audited_request.h"
#include "server/rpc/authorize.h"
#include "server/rpc/caller.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/model_loader_service.h"

namespace keyload {
namespace {

// A call that is over before it began.
template <typename Reactor>
class RefusedCall : public Reactor {
 public:
  explicit RefusedCall(const grpc::Status& why) { this->Finish(why); }
  void OnDone() override { delete this; }
};

class GuardedService final : public v1::ModelLoaderService::CallbackService {
  using Context = grpc::CallbackServerContext;
  using Loader = ModelLoaderServiceImpl;

 public:
  explicit GuardedService(const RpcContext& rpc)
      : loader_(WithLimiter(rpc, refusals_)), access_(*rpc.access), metrics_(rpc.service->metrics()) {}

  grpc::ServerBidiReactor<v1::LoadRequest, v1::LoadResponse>* Load(Context* context) override {
    return Guard<&Loader::Load>(Role::kLoad, "Load", context);
  }
  grpc::ServerUnaryReactor* LoadModel(Context* context, const v1::LoadModelRequest* request,
                                      v1::LoadModelResponse* response) override {
    return Guard<&Loader::LoadModel>(Role::kLoad, "LoadModel", context, request, response);
  }
  grpc::ServerUnaryReactor* PlanLoad(Context* context, const v1::PlanLoadRequest* request,
                                     v1::PlanLoadResponse* response) override {
    return Guard<&Loader::PlanLoad>(Role::kRead, "PlanLoad", context, request, response);
  }
  grpc::ServerUnaryReactor* GetLoad(Context* context, const v1::GetLoadRequest* request,
                                    v1::GetLoadResponse* response) override {
    return Guard<&Loader::GetLoad>(Role::kRead, "GetLoad", context, request, response);
  }
  grpc::ServerUnaryReactor* ListLoads(Context* context, const v1::ListLoadsRequest* request,
                                      v1::ListLoadsResponse* response) override {
    return Guard<&Loader::ListLoads>(Role::kRead, "ListLoads", context, request, response);
  }
  grpc::ServerWriteReactor<v1::WatchLoadResponse>* WatchLoad(Context* context,
                                                             const v1::WatchLoadRequest* request) override {
    return Guard<&Loader::WatchLoad>(Role::kRead, "WatchLoad", context, request);
  }
  grpc::ServerUnaryReactor* CancelLoad(Context* context, const v1::CancelLoadRequest* request,
                                       v1::CancelLoadResponse* response) override {
    return Guard<&Loader::CancelLoad>(Role::kLoad, "CancelLoad", context, request, response);
  }
  grpc::ServerUnaryReactor* GetModel(Context* context, const v1::GetModelRequest* request,
                                     v1::GetModelResponse* response) override {
    return Guard<&Loader::GetModel>(Role::kRead, "GetModel", context, request, response);
  }
  grpc::ServerUnaryReactor* ListModels(Context* context, const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override {
    return Guard<&Loader::ListModels>(Role::kRead, "ListModels", context, request, response);
  }
  grpc::ServerWriteReactor<v1::WatchModelsResponse>* WatchModels(Context* context,
                                                                 const v1::WatchModelsRequest* request) override {
    return Guard<&Loader::WatchModels>(Role::kRead, "WatchModels", context, request);
  }
  grpc::ServerWriteReactor<v1::ListKeysResponse>* ListKeys(Context* context,
                                                           const v1::ListKeysRequest* request) override {
    return Guard<&Loader::ListKeys>(Role::kRead, "ListKeys", context, request);
  }
  grpc::ServerWriteReactor<v1::ReadTensorsResponse>* ReadTensors(Context* context,
                                                                 const v1::ReadTensorsRequest* request) override {
    return Guard<&Loader::ReadTensors>(Role::kLoad, "ReadTensors", context, request);
  }
  grpc::ServerUnaryReactor* Materialize(Context* context, const v1::MaterializeRequest* request,
                                        v1::MaterializeResponse* response) override {
    return Guard<&Loader::Materialize>(Role::kLoad, "Materialize", context, request, response);
  }
  grpc::ServerUnaryReactor* Evict(Context* context, const v1::EvictRequest* request,
                                  v1::EvictResponse* response) override {
    return Guard<&Loader::Evict>(Role::kLoad, "Evict", context, request, response);
  }
  grpc::ServerUnaryReactor* UnloadModel(Context* context, const v1::UnloadModelRequest* request,
                                        v1::UnloadModelResponse* response) override {
    return Guard<&Loader::UnloadModel>(Role::kLoad, "UnloadModel", context, request, response);
  }
  grpc::ServerUnaryReactor* AcquireLease(Context* context, const v1::AcquireLeaseRequest* request,
                                         v1::AcquireLeaseResponse* response) override {
    return Guard<&Loader::AcquireLease>(Role::kLoad, "AcquireLease", context, request, response);
  }
  grpc::ServerUnaryReactor* RenewLease(Context* context, const v1::RenewLeaseRequest* request,
                                       v1::RenewLeaseResponse* response) override {
    return Guard<&Loader::RenewLease>(Role::kLoad, "RenewLease", context, request, response);
  }
  grpc::ServerUnaryReactor* ReleaseLease(Context* context, const v1::ReleaseLeaseRequest* request,
                                         v1::ReleaseLeaseResponse* response) override {
    return Guard<&Loader::ReleaseLease>(Role::kLoad, "ReleaseLease", context, request, response);
  }
  grpc::ServerUnaryReactor* ListLeases(Context* context, const v1::ListLeasesRequest* request,
                                       v1::ListLeasesResponse* response) override {
    return Guard<&Loader::ListLeases>(Role::kRead, "ListLeases", context, request, response);
  }
  grpc::ServerUnaryReactor* SetDeviceMap(Context* context, const v1::SetDeviceMapRequest* request,
                                         v1::SetDeviceMapResponse* response) override {
    return Guard<&Loader::SetDeviceMap>(Role::kAdmin, "SetDeviceMap", context, request, response);
  }
  grpc::ServerUnaryReactor* GetDeviceMap(Context* context, const v1::GetDeviceMapRequest* request,
                                         v1::GetDeviceMapResponse* response) override {
    return Guard<&Loader::GetDeviceMap>(Role::kRead, "GetDeviceMap", context, request, response);
  }
  grpc::ServerUnaryReactor* ListDeviceMaps(Context* context, const v1::ListDeviceMapsRequest* request,
                                           v1::ListDeviceMapsResponse* response) override {
    return Guard<&Loader::ListDeviceMaps>(Role::kRead, "ListDeviceMaps", context, request, response);
  }
  grpc::ServerUnaryReactor* DeleteDeviceMap(Context* context, const v1::DeleteDeviceMapRequest* request,
                                            v1::DeleteDeviceMapResponse* response) override {
    return Guard<&Loader::DeleteDeviceMap>(Role::kAdmin, "DeleteDeviceMap", context, request, response);
  }
  grpc::ServerReadReactor<v1::UploadDocumentRequest>* UploadDocument(Context* context,
                                                                     v1::UploadDocumentResponse* response) override {
    return Guard<&Loader::UploadDocument>(Role::kLoad, "UploadDocument", context, response);
  }
  grpc::ServerUnaryReactor* ListDevices(Context* context, const v1::ListDevicesRequest* request,
                                        v1::ListDevicesResponse* response) override {
    return Guard<&Loader::ListDevices>(Role::kRead, "ListDevices", context, request, response);
  }
  grpc::ServerUnaryReactor* GetServerInfo(Context* context, const v1::GetServerInfoRequest* request,
                                          v1::GetServerInfoResponse* response) override {
    return Guard<&Loader::GetServerInfo>(Role::kRead, "GetServerInfo", context, request, response);
  }

 private:
  template <auto kMethod, typename... Args>
  using Result = decltype((std::declval<Loader&>().*kMethod)(nullptr, std::declval<Args>()...));

  template <auto kMethod, typename... Args>
  Result<kMethod, Args...> Guard(Role needed, std::string_view method, Context* context, Args... args) {
    using Call = Result<kMethod, Args...>;
    const absl::StatusOr<Call> call = NoThrow([&]() -> absl::StatusOr<Call> {
      const absl::Status status = Authorize(access_, *context, needed, method);
      if (status.ok()) return (loader_.*kMethod)(context, args...);
      const std::shared_ptr<const Caller> caller = CallerOf(&access_, *context);
      if (TellRefusal(status, method, *caller, metrics_, refusals_)) AuditRefusal<kMethod>(*caller, status, args...);
      return status;
    });
    if (call.ok()) return *call;
    return new RefusedCall<std::remove_pointer_t<Call>>(ToGrpcStatus(call.status()));
  }

  // The audit line of a call that would have had one.
  template <auto kMethod, typename Request = void, typename... Response>
  void AuditRefusal(const Caller& caller, const absl::Status& status, const Request* request = nullptr,
                    Response*... /*response*/) const {
    AuditEntry entry;
    if constexpr (AuditedRequest<Request>) entry = AuditOf(*request);
    if constexpr (std::is_same_v<decltype(kMethod), decltype(&Loader::Load)>) entry.action = "load";
    if (entry.action.empty()) return;
    entry.status = status;
    Audit(entry, caller);
  }

  static RpcContext WithLimiter(RpcContext rpc, LogLimiter& refusals) {
    rpc.refusals = &refusals;
    return rpc;
  }

  LogLimiter refusals_;
  Loader loader_;
  const AccessControl& access_;
  Metrics& metrics_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeGuardedService(const RpcContext& rpc) {
  return std::make_unique<GuardedService>(rpc);
}

}  // namespace keyload
