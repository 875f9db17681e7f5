#include "server/rpc/load_model_call.h"

#include <atomic>
#include <memory>
#include <utility>

#include "server/base/error.h"
#include "server/base/no_throw.h"
#include "server/rpc/convert_report.h"
#include "server/rpc/convert_spec.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/load_audit.h"

namespace keyload {
namespace {

class LoadModelCall : public grpc::ServerUnaryReactor, public LiveCall {
 public:
  LoadModelCall(const RpcContext& rpc, grpc::CallbackServerContext& context, const std::string& model,
                v1::LoadModelResponse* response)
      : context_(context),
        response_(*response),
        caller_(CallerOf(rpc.access, context)),
        hold_(*rpc.send, PeerOf(*caller_)),
        audit_(model, caller_),
        entry_(*rpc.calls, this, PeerOf(*caller_)) {}

  void Start(const RpcContext& rpc, const grpc::CallbackServerContext& context,
             const RequestPtr<v1::LoadModelRequest>& request) {
    const auto start = [this, service = rpc.service, deadline = DeadlineOf(context), request] {
      absl::StatusOr<LoadSpec> converted = NoThrow([&] { return FromProto(request->spec(), &service->device_maps()); });
      if (!converted.ok()) return End(converted.status());
      converted->charge = request;
      service->StartLoad(*std::move(converted), deadline, std::make_shared<Observer>(*this), ticket_, caller_);
    };
    const auto fail = [this](const absl::Status& thrown) { End(thrown); };
    const absl::Status queued =
        NoThrow([&] { return rpc.starts->Submit({.caller = caller_->share(), .run = start, .fail = fail}); });
    if (!queued.ok()) End(queued);
  }

  void OnCancel() override { ticket_->Leave(); }
  void OnDone() override { delete this; }
  void Drain() override {}  // its load goes on within the grace
  void Cancel() override { ticket_->Leave(); }
  void CancelIfUnread(Clock::time_point now, Clock::duration limit) override {
    if (answered_.load() < now - limit) context_.TryCancel();
  }

 private:
  class Observer : public LoadObserver {
   public:
    explicit Observer(LoadModelCall& call) : call_(call) {}
    void OnAccepted(const std::string& load, bool /*joined*/) override { call_.audit_.Accepted(load); }
    void OnPlanned(const LoadReport& /*report*/) override {}
    void OnProgress(const LoadProgress& /*progress*/) override {}
    void OnEnd(absl::StatusOr<LoadReport> result) override { call_.End(std::move(result)); }

   private:
    LoadModelCall& call_;  // finishes only in OnEnd
  };

  ~LoadModelCall() override = default;

  absl::Status Answer(const LoadReport& report) {
    *response_.mutable_report() = ToProto(report);
    if (!hold_.TryTake(response_.ByteSizeLong())) CutReport(*response_.mutable_report(), 0);
    return Annotate(report.error, report.load, {{"load", report.load}});
  }

  // Whatever throws here, the call is finished: nobody else would do it.
  void End(absl::StatusOr<LoadReport> result) noexcept {
    const absl::Status status = result.ok() ? NoThrow([&] { return Answer(*result); }) : result.status();
    NoThrow([&] { audit_.End(result); }).IgnoreError();
    answered_ = Clock::now();
    Finish(ToGrpcStatus(status));
  }

  grpc::CallbackServerContext& context_;
  v1::LoadModelResponse& response_;
  const std::shared_ptr<const Caller> caller_;
  SendBudget::Hold hold_;
  std::atomic<Clock::time_point> answered_ = Clock::time_point::max();
  LoadAudit audit_;
  const std::shared_ptr<LoadTicket> ticket_ = std::make_shared<LoadTicket>();
  const LiveCalls::Entry entry_;
};

}  // namespace

grpc::ServerUnaryReactor* StartLoadModel(const RpcContext& rpc, grpc::CallbackServerContext* context,
                                         const RequestPtr<v1::LoadModelRequest>& request,
                                         v1::LoadModelResponse* response) {
  auto* const call = new LoadModelCall(rpc, *context, request->spec().model(), response);
  call->Start(rpc, *context, request);
  return call;
}

}  // namespace keyload
