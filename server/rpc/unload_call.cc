#include "server/rpc/unload_call.h"

#include <atomic>
#include <memory>
#include <utility>

#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/no_throw.h"
#include "server/rpc/audited_request.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/unary_call.h"

namespace keyload {
namespace {

class UnloadCall : public grpc::ServerUnaryReactor, public LiveCall {
 public:
  UnloadCall(const RpcContext& rpc, grpc::CallbackServerContext& context, AuditEntry audit,
             v1::UnloadModelResponse* response)
      : context_(context),
        audit_(std::move(audit)),
        caller_(CallerOf(rpc.access, context)),
        response_(*response),
        entry_(*rpc.calls, this, PeerOf(*caller_)) {}

  void Start(const RpcContext& rpc) {
    const auto unload = [service = rpc.service, model = audit_.model, caller = caller_, waiting = waiting_]() {
      const absl::Status status = service->Unload(
          model, [waiting](const ModelRegistry::Unloaded& unloaded) { End(*waiting, unloaded); }, caller);
      if (!status.ok()) End(*waiting, status);
    };
    const auto fail = [waiting = waiting_](const absl::Status& thrown) { End(*waiting, thrown); };
    const absl::Status queued =
        NoThrow([&] { return rpc.unloads->Submit({.caller = caller_->share(), .run = unload, .fail = fail}); });
    if (!queued.ok()) End(*waiting_, queued);
  }

  void OnCancel() override {
    End(*waiting_, NoThrow([]() -> absl::Status {
      return MakeError(Reason::kLoadCancelled, "nobody waits any more; the model goes with its last user");
    }));
  }
  void OnDone() override { delete this; }
  void Drain() override {}  // it is waiting for its answer
  void Cancel() override { OnCancel(); }
  void CancelIfUnread(Clock::time_point now, Clock::duration limit) override {
    if (answered_.load() < now - limit) context_.TryCancel();
  }

 private:
  // The call until it is finished, then null: whoever takes it out finishes it. Outlives the call, as the model's last
  // user may be done long after the caller went away.
  using Waiting = std::atomic<UnloadCall*>;

  ~UnloadCall() override = default;

  // Nothing leaves it: the call that it takes out would never be finished.
  static void End(Waiting& waiting, const absl::StatusOr<ModelRegistry::Unloaded>& result) noexcept {
    UnloadCall* const call = waiting.exchange(nullptr);
    if (call == nullptr) return;
    if (result.ok()) {
      call->response_.set_was_loaded(result->was_loaded);
      call->response_.set_freed_bytes(result->freed_bytes);
    }
    NoThrow([&] {
      if (result.ok()) call->audit_.outcome = result->was_loaded ? "UNLOADED" : "NOT_LOADED";
      call->audit_.status = result.status();
      Audit(call->audit_, *call->caller_);
    }).IgnoreError();
    call->answered_ = Clock::now();
    call->Finish(ToGrpcStatus(result.status()));
  }

  grpc::CallbackServerContext& context_;
  AuditEntry audit_;
  const std::shared_ptr<const Caller> caller_;
  v1::UnloadModelResponse& response_;
  const std::shared_ptr<Waiting> waiting_ = std::make_shared<Waiting>(this);
  std::atomic<Clock::time_point> answered_ = Clock::time_point::max();
  const LiveCalls::Entry entry_;
};

}  // namespace

grpc::ServerUnaryReactor* StartUnloadModel(const RpcContext& rpc, grpc::CallbackServerContext* context,
                                           const RequestPtr<v1::UnloadModelRequest>& request,
                                           v1::UnloadModelResponse* response) {
  const AuditEntry audit = AuditOf(*request);
  if (request->leased() != v1::UnloadModelRequest::LEASED_UNSPECIFIED &&
      request->leased() != v1::UnloadModelRequest::LEASED_REFUSE) {
    return FinishNow(
        rpc, context,
        MakeError(Reason::kFieldNotSupported, "leased: leases are not supported yet", {{"field", "leased"}}), audit);
  }
  auto* const call = new UnloadCall(rpc, *context, audit, response);
  call->Start(rpc);
  return call;
}

}  // namespace keyload
