#include "server/rpc/guarded_service.h"

#include <grpcpp/impl/codegen/server_callback_handlers.h>

#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "absl/functional/function_ref.h"
#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/no_throw.h"
#include "server/base/strings.h"
#include "server/rpc/audited_request.h"
#include "server/rpc/authorize.h"
#include "server/rpc/caller.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/model_loader_service.h"
#include "server/rpc/strict_request.h"

namespace keyload {
namespace {

// The audit line of a refused call names what a request of so many bytes is about; a larger one is not parsed for that.
constexpr size_t kAuditedBytes = 64 << 10;

// A call that is over before it began.
template <typename Reactor>
class RefusedCall : public Reactor {
 public:
  explicit RefusedCall(const absl::Status& why) { this->Finish(ToGrpcStatus(why)); }
  void OnDone() override { delete this; }
};

class GuardedService final : public grpc::Service {
  using Context = grpc::CallbackServerContext;
  using Loader = ModelLoaderServiceImpl;
  using RpcMethod = grpc::internal::RpcMethod;
  template <typename Response>
  using WriteReactor = grpc::ServerWriteReactor<Response>;
  using LoadReactor = grpc::ServerBidiReactor<grpc::ByteBuffer, v1::LoadResponse>;
  using UploadReactor = grpc::ServerReadReactor<grpc::ByteBuffer>;

 public:
  explicit GuardedService(const RpcContext& rpc)
      : loader_(WithLimiter(rpc, refusals_)),
        access_(*rpc.access),
        calls_(*rpc.calls),
        metrics_(rpc.service->metrics()) {
    AddLoad();
    AddUnary("LoadModel", Role::kLoad, &Loader::LoadModel);
    AddUnary("PlanLoad", Role::kRead, &Loader::PlanLoad);
    AddUnary("GetLoad", Role::kRead, &Loader::GetLoad);
    AddUnary("ListLoads", Role::kRead, &Loader::ListLoads);
    AddStream("WatchLoad", Role::kRead, &Loader::WatchLoad);
    AddUnary("CancelLoad", Role::kLoad, &Loader::CancelLoad);
    AddUnary("GetModel", Role::kRead, &Loader::GetModel);
    AddUnary("ListModels", Role::kRead, &Loader::ListModels);
    AddStream("WatchModels", Role::kRead, &Loader::WatchModels);
    AddStream("ListKeys", Role::kRead, &Loader::ListKeys);
    AddStream("ReadTensors", Role::kLoad, &Loader::ReadTensors);
    AddUnary("Materialize", Role::kLoad, &Loader::Materialize);
    AddUnary("Evict", Role::kLoad, &Loader::Evict);
    AddUnary("UnloadModel", Role::kLoad, &Loader::UnloadModel);
    AddUnary("AcquireLease", Role::kLoad, &Loader::AcquireLease);
    AddUnary("RenewLease", Role::kLoad, &Loader::RenewLease);
    AddUnary("ReleaseLease", Role::kLoad, &Loader::ReleaseLease);
    AddUnary("ListLeases", Role::kRead, &Loader::ListLeases);
    AddUnary("SetDeviceMap", Role::kAdmin, &Loader::SetDeviceMap);
    AddUnary("GetDeviceMap", Role::kRead, &Loader::GetDeviceMap);
    AddUnary("ListDeviceMaps", Role::kRead, &Loader::ListDeviceMaps);
    AddUnary("DeleteDeviceMap", Role::kAdmin, &Loader::DeleteDeviceMap);
    AddUpload();
    AddUnary("ListDevices", Role::kRead, &Loader::ListDevices);
    AddUnary("GetServerInfo", Role::kRead, &Loader::GetServerInfo);
  }

 private:
  template <typename Request, typename Response>
  void AddUnary(const char* method, Role needed,
                grpc::ServerUnaryReactor* (Loader::*handle)(Context*, const RequestPtr<Request>&, Response*)) {
    using Reactor = grpc::ServerUnaryReactor;
    const auto guarded = [=, this](Context* context, const grpc::ByteBuffer* bytes, Response* response) {
      return Begin<Reactor>([&]() -> absl::StatusOr<Reactor*> {
        KEYLOAD_ASSIGN_OR_RETURN(const RequestPtr<Request> request, Take<Request>(needed, method, *context, *bytes));
        return (loader_.*handle)(context, request, response);
      });
    };
    AddMethod(method, RpcMethod::NORMAL_RPC,
              new grpc::internal::CallbackUnaryHandler<grpc::ByteBuffer, Response>(guarded));
  }

  template <typename Request, typename Response>
  void AddStream(const char* method, Role needed,
                 WriteReactor<Response>* (Loader::*handle)(Context*, const RequestPtr<Request>&)) {
    using Reactor = WriteReactor<Response>;
    const auto guarded = [=, this](Context* context, const grpc::ByteBuffer* bytes) {
      return Begin<Reactor>([&]() -> absl::StatusOr<Reactor*> {
        KEYLOAD_ASSIGN_OR_RETURN(const RequestPtr<Request> request, Take<Request>(needed, method, *context, *bytes));
        return (loader_.*handle)(context, request);
      });
    };
    AddMethod(method, RpcMethod::SERVER_STREAMING,
              new grpc::internal::CallbackServerStreamingHandler<grpc::ByteBuffer, Response>(guarded));
  }

  void AddLoad() {
    const auto guarded = [this](Context* context) {
      return Begin<LoadReactor>([&]() -> absl::StatusOr<LoadReactor*> {
        KEYLOAD_RETURN_IF_ERROR(CheckStream<v1::LoadRequest>("Load", *context));
        return loader_.Load(context);
      });
    };
    AddMethod("Load", RpcMethod::BIDI_STREAMING,
              new grpc::internal::CallbackBidiHandler<grpc::ByteBuffer, v1::LoadResponse>(guarded));
  }

  void AddUpload() {
    const auto guarded = [this](Context* context, v1::UploadDocumentResponse* response) {
      return Begin<UploadReactor>([&]() -> absl::StatusOr<UploadReactor*> {
        KEYLOAD_RETURN_IF_ERROR(CheckStream<v1::UploadDocumentRequest>("UploadDocument", *context));
        return loader_.UploadDocument(context, response);
      });
    };
    AddMethod(
        "UploadDocument", RpcMethod::CLIENT_STREAMING,
        new grpc::internal::CallbackClientStreamingHandler<grpc::ByteBuffer, v1::UploadDocumentResponse>(guarded));
  }

  // gRPC takes the handler.
  void AddMethod(const char* method, RpcMethod::RpcType type, grpc::internal::MethodHandler* handler) {
    paths_.push_back(
        std::make_unique<std::string>(StrCat("/", v1::ModelLoaderService::service_full_name(), "/", method)));
    grpc::Service::AddMethod(new grpc::internal::RpcServiceMethod(paths_.back()->c_str(), type, nullptr));
    MarkMethodCallback(static_cast<int>(paths_.size()) - 1, handler);
  }

  // The call that `make` returns, or one that is over: with its error, or with that of an exception. Null when there is
  // no memory even for that: then gRPC ends the call itself.
  template <typename Reactor, typename Make>
  static Reactor* Begin(Make make) noexcept {
    const absl::StatusOr<Reactor*> call = NoThrow(make);
    return call.ok() ? *call : new (std::nothrow) RefusedCall<Reactor>(call.status());
  }

  // Whether the call may begin. `request` gives what its audit line names, or null; it is asked only for one that may
  // not.
  template <typename Request>
  absl::Status Check(Role needed, std::string_view method, const Context& context,
                     absl::FunctionRef<RequestPtr<Request>()> request) {
    absl::Status status = Authorize(access_, context, needed, method);
    const std::shared_ptr<const Caller> caller = CallerOf(&access_, context);
    if (!status.ok()) {
      if (TellRefusal(status, method, *caller, metrics_, refusals_)) AuditRefusal(*caller, status, request().get());
      return status;
    }
    status = calls_.CheckRoom(PeerOf(*caller));
    if (!status.ok()) AuditRefusal(*caller, status, request().get());
    return status;
  }

  // The same for a stream that has not brought a request yet.
  template <typename Request>
  absl::Status CheckStream(std::string_view method, const Context& context) {
    return Check<Request>(Role::kLoad, method, context, [] { return RequestPtr<Request>(); });
  }

  // The request of a call that may begin. A caller that may not make the call learns no more than that, whatever it
  // sent, and a large request of it is not even parsed.
  template <typename Request>
  absl::StatusOr<RequestPtr<Request>> Take(Role needed, std::string_view method, const Context& context,
                                           grpc::ByteBuffer bytes) {
    const auto parse = [&] { return ParseRequest<Request>(bytes, loader_.request_memory()); };
    const auto audited = [&]() -> RequestPtr<Request> {
      if (!AuditedRequest<Request> || bytes.Length() > kAuditedBytes) return nullptr;
      return parse().value_or(nullptr);
    };
    KEYLOAD_RETURN_IF_ERROR(Check<Request>(needed, method, context, audited));
    KEYLOAD_ASSIGN_OR_RETURN(RequestPtr<Request> request, parse());
    if (const absl::Status known = CheckKnownFields(*request); !known.ok()) {
      AuditRefusal(*CallerOf(&access_, context), known, request.get());
      return known;
    }
    return request;
  }

  // The audit line of a call that would have had one.
  template <typename Request>
  void AuditRefusal(const Caller& caller, const absl::Status& status, const Request* request) const {
    AuditEntry entry;
    if constexpr (AuditedRequest<Request>) entry = AuditOf(request == nullptr ? Request() : *request);
    if constexpr (std::is_same_v<Request, v1::LoadRequest>) entry.action = "load";
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
  const LiveCalls& calls_;
  Metrics& metrics_;
  std::vector<std::unique_ptr<std::string>> paths_;  // gRPC keeps pointers to them
};

}  // namespace

std::unique_ptr<grpc::Service> MakeGuardedService(const RpcContext& rpc) {
  return std::make_unique<GuardedService>(rpc);
}

}  // namespace keyload
