#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <memory>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/no_throw.h"
#include "server/base/strings.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/rpc_context.h"

namespace keyload {

// OK when the answer may be sent, which `hold` then has room for; else MEMORY_EXHAUSTED, and the answer is empty.
absl::Status TakeRoomForAnswer(SendBudget::Hold& hold, google::protobuf::Message& response);

// A unary call that is answered on an executor, or at once. Cancelling the call stops its context. A client that does
// not take the answer has the call cancelled. Deletes itself.
class UnaryCall : public grpc::ServerUnaryReactor, public LiveCall {
 public:
  using Handler = absl::AnyInvocable<absl::Status(const RequestContext&)>;

  // `handler` fills `response`; request and response live until the call is done. `audit`, if there is one, is written
  // when the call is answered; the handler may add to it.
  static grpc::ServerUnaryReactor* Start(const RpcContext& rpc, Executor& executor,
                                         grpc::CallbackServerContext* context, google::protobuf::Message* response,
                                         Handler handler, std::shared_ptr<AuditEntry> audit = nullptr) {
    auto* const call = new UnaryCall(rpc, *context, *response, std::move(audit));
    const absl::Status queued = NoThrow([&] {
      return executor.Submit(
          {.caller = call->request_context_.share(),
           .run = [call,
                   handler = std::move(handler)]() mutable { call->Answer(call->request_context_.Check(), handler); },
           .fail = [call](const absl::Status& thrown) { call->End(thrown); }});
    });
    if (!queued.ok()) call->End(queued);
    return call;
  }
  // The same in the queue of loads: cancelled, or too late, it leaves that at once.
  static grpc::ServerUnaryReactor* Start(const RpcContext& rpc, LoadQueue& loads, grpc::CallbackServerContext* context,
                                         google::protobuf::Message* response, Handler handler,
                                         std::shared_ptr<AuditEntry> audit = nullptr) {
    auto* const call = new UnaryCall(rpc, *context, *response, std::move(audit));
    const RequestContext& request = call->request_context_;
    const absl::Status queued = NoThrow([&] {
      return loads.Submit({.context = request,
                           .load = nullptr,
                           .run =
                               [call, handler = std::move(handler)](auto turn) mutable {
                                 call->Answer(turn.status.ok() ? call->request_context_.Check() : turn.status, handler);
                               },
                           .fail = [call](const absl::Status& thrown) { call->End(thrown); }});
    });
    if (!queued.ok()) call->End(queued);
    return call;
  }
  // Answers at once, on gRPC's thread.
  static grpc::ServerUnaryReactor* Finished(const RpcContext& rpc, grpc::CallbackServerContext* context,
                                            google::protobuf::Message* response, const absl::Status& status) {
    auto* const call = new UnaryCall(rpc, *context, *response, nullptr);
    call->End(status);
    return call;
  }

  void OnCancel() override { stop_.request_stop(); }
  void OnDone() override { delete this; }
  void Drain() override {}  // it is working on its answer
  void Cancel() override { stop_.request_stop(); }
  void CancelIfUnread(Clock::time_point now, Clock::duration limit) override {
    if (answered_.load() < now - limit) context_.TryCancel();
  }

 private:
  UnaryCall(const RpcContext& rpc, grpc::CallbackServerContext& context, google::protobuf::Message& response,
            std::shared_ptr<AuditEntry> audit)
      : context_(context),
        response_(response),
        request_context_(ToRequestContext(rpc, context, stop_.get_token())),
        hold_(*rpc.send, PeerOf(*request_context_.caller)),
        audit_(std::move(audit)),
        entry_(*rpc.calls, this, PeerOf(*request_context_.caller)) {}
  ~UnaryCall() override = default;

  void Answer(absl::Status status, Handler& handler) {
    if (status.ok()) status = NoThrow([&] { return handler(request_context_); });
    End(status);
  }

  // Whatever throws here, the call is finished: nobody else would do it.
  void End(absl::Status status) noexcept {
    const absl::Status thrown = NoThrow([&] {
      if (status.ok()) status = TakeRoomForAnswer(hold_, response_);
      if (audit_ == nullptr) return;
      audit_->status = status;
      Audit(*audit_, *request_context_.caller);
    });
    if (status.ok()) status = thrown;
    answered_ = Clock::now();
    Finish(ToGrpcStatus(status));
  }

  grpc::CallbackServerContext& context_;
  google::protobuf::Message& response_;
  std::stop_source stop_;  // before request_context_, which holds its token
  const RequestContext request_context_;
  SendBudget::Hold hold_;
  const std::shared_ptr<AuditEntry> audit_;
  std::atomic<Clock::time_point> answered_ = Clock::time_point::max();
  const LiveCalls::Entry entry_;
};

// Answers with a small message at once, on gRPC's thread.
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
