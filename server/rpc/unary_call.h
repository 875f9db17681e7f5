#pragma once

#include <grpcpp/support/server_callback.h>

#include <memory>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/no_throw.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/rpc_context.h"

namespace keyload {

// A unary call that is answered on an executor. Cancelling the call stops its context. Deletes itself.
class UnaryCall : public grpc::ServerUnaryReactor, public LiveCall {
 public:
  using Handler = absl::AnyInvocable<absl::Status(const RequestContext&)>;

  // `handler` fills the response; request and response live until the call is done. `audit`, if there is one, is
  // written when the call is answered; the handler may add to it.
  static grpc::ServerUnaryReactor* Start(const RpcContext& rpc, Executor& executor,
                                         grpc::CallbackServerContext* context, Handler handler,
                                         std::shared_ptr<AuditEntry> audit = nullptr) {
    auto* const call = new UnaryCall(rpc, *context, std::move(audit));
    const absl::Status queued = NoThrow([&] {
      return executor.Submit(
          {.caller = call->request_context_.share(),
           .run = [call,
                   handler = std::move(handler)]() mutable { call->Answer(call->request_context_.Check(), handler); },
           .fail = [call](const absl::Status& thrown) { call->Finish(ToGrpcStatus(thrown)); }});
    });
    if (!queued.ok()) call->End(queued);
    return call;
  }
  // The same in the queue of loads: cancelled, or too late, it leaves that at once.
  static grpc::ServerUnaryReactor* Start(const RpcContext& rpc, LoadQueue& loads, grpc::CallbackServerContext* context,
                                         Handler handler, std::shared_ptr<AuditEntry> audit = nullptr) {
    auto* const call = new UnaryCall(rpc, *context, std::move(audit));
    const RequestContext& request = call->request_context_;
    const absl::Status queued = NoThrow([&] {
      return loads.Submit({.context = request,
                           .load = nullptr,
                           .run =
                               [call, handler = std::move(handler)](auto turn) mutable {
                                 call->Answer(turn.status.ok() ? call->request_context_.Check() : turn.status, handler);
                               },
                           .fail = [call](const absl::Status& thrown) { call->Finish(ToGrpcStatus(thrown)); }});
    });
    if (!queued.ok()) call->End(queued);
    return call;
  }

  void OnCancel() override { stop_.request_stop(); }
  void OnDone() override { delete this; }
  void Drain() override {}  // it is working on its answer
  void Cancel() override { stop_.request_stop(); }

 private:
  UnaryCall(const RpcContext& rpc, const grpc::CallbackServerContext& context, std::shared_ptr<AuditEntry> audit)
      : calls_(*rpc.calls),
        request_context_(ToRequestContext(rpc, context, stop_.get_token())),
        audit_(std::move(audit)) {
    calls_.Add(this);
  }
  ~UnaryCall() override { calls_.Remove(this); }

  void Answer(absl::Status status, Handler& handler) {
    if (status.ok()) status = NoThrow([&] { return handler(request_context_); });
    End(status);
  }

  void End(const absl::Status& status) {
    if (audit_ != nullptr) {
      audit_->status = status;
      Audit(*audit_, *request_context_.caller);
    }
    Finish(ToGrpcStatus(status));
  }

  LiveCalls& calls_;
  std::stop_source stop_;  // before request_context_, which holds its token
  const RequestContext request_context_;
  const std::shared_ptr<AuditEntry> audit_;
};

// Answers at once, on gRPC's thread.
inline grpc::ServerUnaryReactor* FinishNow(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

// The same, with the audit line of the call.
inline grpc::ServerUnaryReactor* FinishNow(const RpcContext& rpc, grpc::CallbackServerContext* context,
                                           const absl::Status& status, AuditEntry audit) {
  audit.status = status;
  Audit(audit, *CallerOf(rpc.access, *context));
  return FinishNow(context, status);
}

}  // namespace keyload
