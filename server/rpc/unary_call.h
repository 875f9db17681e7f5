#pragma once

#include <grpcpp/support/server_callback.h>

#include <memory>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "server/base/error.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/rpc_context.h"

namespace keyload {

// A unary call that is answered on an executor. Cancelling the call stops its context. Deletes itself.
class UnaryCall : public grpc::ServerUnaryReactor, public LiveCall {
 public:
  using Handler = absl::AnyInvocable<absl::Status(const RequestContext&)>;

  // `handler` fills the response; request and response live until the call is done.
  static grpc::ServerUnaryReactor* Start(const RpcContext& rpc, Executor& executor,
                                         grpc::CallbackServerContext* context, Handler handler) {
    auto* const call = new UnaryCall(rpc);
    const RequestContext request = ToRequestContext(*context, call->stop_.get_token());
    const bool queued = executor.TrySubmit(
        [call, request, handler = std::move(handler)]() mutable { call->Answer(request.Check(), request, handler); });
    if (!queued) call->Finish(ToGrpcStatus(TooManyWaiting()));
    return call;
  }
  // The same in the queue of loads: cancelled, or too late, it leaves that at once.
  static grpc::ServerUnaryReactor* Start(const RpcContext& rpc, LoadQueue& loads, grpc::CallbackServerContext* context,
                                         Handler handler) {
    auto* const call = new UnaryCall(rpc);
    const RequestContext request = ToRequestContext(*context, call->stop_.get_token());
    const absl::Status queued = loads.Submit(
        {.context = request, .load = nullptr, .run = [call, request, handler = std::move(handler)](auto turn) mutable {
           call->Answer(turn.status.ok() ? request.Check() : turn.status, request, handler);
         }});
    if (!queued.ok()) call->Finish(ToGrpcStatus(queued));
    return call;
  }

  void OnCancel() override { stop_.request_stop(); }
  void OnDone() override { delete this; }
  void Drain() override {}  // it is working on its answer
  void Cancel() override { stop_.request_stop(); }

 private:
  explicit UnaryCall(const RpcContext& rpc) : calls_(*rpc.calls) { calls_.Add(this); }
  ~UnaryCall() override { calls_.Remove(this); }

  void Answer(absl::Status status, const RequestContext& request, Handler& handler) {
    if (status.ok()) status = handler(request);
    Finish(ToGrpcStatus(status));
  }

  LiveCalls& calls_;
  std::stop_source stop_;
};

// Answers at once, on gRPC's thread.
inline grpc::ServerUnaryReactor* FinishNow(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

}  // namespace keyload
