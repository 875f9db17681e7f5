#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "server/base/error.h"
#include "server/base/mutex.h"
#include "server/rpc/audited_request.h"
#include "server/rpc/convert_report.h"
#include "server/rpc/model_loader_service.h"
#include "server/rpc/page.h"
#include "server/rpc/unary_call.h"

// The calls about loads that run or have ended: whoever lost its stream finds its load again.

namespace keyload {
namespace {

// The state of a load at once, then what changes, up to its end. What the client does not take is replaced by what is
// newer. Deletes itself.
class WatchLoadCall : public grpc::ServerWriteReactor<v1::WatchLoadResponse>, public LiveCall {
 public:
  WatchLoadCall(const RpcContext& rpc, grpc::CallbackServerContext& context)
      : WatchLoadCall(rpc, context, PeerOf(*CallerOf(rpc.access, context))) {}

  void Start(const RpcContext& rpc, const std::string& load) {
    const absl::Status started = NoThrow([&] { return Watch(rpc, load); });
    if (!started.ok()) EndWith(started);
  }

  void OnWriteDone(bool ok) override {
    {
      MutexLock lock(mutex_);
      writing_ = false;
      sending_since_ = Clock::time_point::max();
      hold_.Release();
    }
    if (!ok) Cancel();
    Advance();
  }
  void OnCancel() override { Cancel(); }
  void OnDone() override { delete this; }
  void Drain() override {}  // its load goes on within the grace
  void Cancel() override {
    const std::shared_ptr<LoadTicket> ticket = ticket_;  // the call may be gone when its part has ended
    {
      MutexLock lock(mutex_);
      broken_ = true;
    }
    ticket->Leave();
  }
  void CancelIfUnread(Clock::time_point now, Clock::duration limit) override {
    {
      MutexLock lock(mutex_);
      if (sending_since_ >= now - limit) return;
    }
    context_.TryCancel();
  }

 private:
  WatchLoadCall(const RpcContext& rpc, grpc::CallbackServerContext& context, const std::string& peer)
      : context_(context), hold_(*rpc.send, peer), entry_(*rpc.calls, this, peer) {}

  class Observer : public LoadObserver {
   public:
    Observer(WatchLoadCall& call, const LoadIdentity& identity) : call_(call), identity_(identity) {}
    void OnAccepted(const std::string& /*load*/, bool /*joined*/) override { call_.Set({.identity = identity_}); }
    void OnPlanned(const LoadReport& /*report*/) override {}
    void OnProgress(const LoadProgress& progress) override { call_.Set({.identity = identity_, .progress = progress}); }
    void OnEnd(absl::StatusOr<LoadReport> result) override {
      const absl::Status thrown = NoThrow([&] {
        call_.Set({.identity = identity_,
                   .done = true,
                   .result = std::make_shared<const absl::StatusOr<LoadReport>>(std::move(result))});
      });
      if (!thrown.ok()) call_.EndWith(thrown);
    }

   private:
    WatchLoadCall& call_;  // finishes only after OnEnd
    const LoadIdentity identity_;
  };

  ~WatchLoadCall() override = default;

  absl::Status Watch(const RpcContext& rpc, const std::string& load) {
    KEYLOAD_ASSIGN_OR_RETURN(const std::shared_ptr<SharedLoad> found, rpc.service->FindLoad(load));
    // The load's end may be told, and this call be gone, before Watch returns.
    const std::shared_ptr<LoadTicket> ticket = ticket_;
    KEYLOAD_ASSIGN_OR_RETURN(const SharedLoad::WaiterId waiter,
                             found->Watch(std::make_shared<Observer>(*this, found->identity())));
    ticket->Bind(found, waiter);
    return absl::OkStatus();
  }

  void Set(const LoadStatus& status) {
    {
      v1::LoadStatus message = ToProto(status);
      MutexLock lock(mutex_);
      next_ = std::move(message);
      ended_ = status.done;
    }
    Advance();
  }

  // Nothing more is to be told.
  void EndWith(const absl::Status& status) {
    {
      MutexLock lock(mutex_);
      next_.reset();
      ended_ = true;
      end_ = status;
    }
    Advance();
  }

  // Lets no exception out: a message that cannot be made ends the call's part in the load, and with it the call.
  void Advance() noexcept {
    absl::Status end;
    {
      MutexLock lock(mutex_);
      if (writing_ || finished_) return;
      if (next_ && !broken_) {
        end_ = NoThrow([this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { Fill(); });
        if (end_.ok()) {
          writing_ = true;
          sending_since_ = Clock::now();
          StartWrite(&response_);
          return;
        }
        broken_ = true;
        context_.TryCancel();
      }
      if (!ended_) return;
      finished_ = true;
      end = end_.ok() && broken_ ? ClientIsGone() : end_;
    }
    Finish(ToGrpcStatus(end));  // after this the call may be gone
  }

  // The next message.
  void Fill() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    response_.mutable_status()->Swap(&*next_);
    next_.reset();
    if (!hold_.TryTake(response_.ByteSizeLong()) && response_.status().has_report()) {
      CutReport(*response_.mutable_status()->mutable_report(), 0);
    }
  }

  grpc::CallbackServerContext& context_;
  SendBudget::Hold hold_;  // of the write in flight
  const std::shared_ptr<LoadTicket> ticket_ = std::make_shared<LoadTicket>();
  v1::WatchLoadResponse response_;  // the write in flight

  Mutex mutex_;
  std::optional<v1::LoadStatus> next_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;  // the load, or this call's part in it
  absl::Status end_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  Clock::time_point sending_since_ ABSL_GUARDED_BY(mutex_) = Clock::time_point::max();
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;  // nobody reads, or is to
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;

  const LiveCalls::Entry entry_;
};

}  // namespace

grpc::ServerUnaryReactor* ModelLoaderServiceImpl::GetLoad(grpc::CallbackServerContext* context,
                                                          const RequestPtr<v1::GetLoadRequest>& request,
                                                          v1::GetLoadResponse* response) {
  const auto get = [&]() -> absl::Status {
    if (request->id_case() == v1::GetLoadRequest::ID_NOT_SET) {
      return MakeError(Reason::kBadRequest, "load or request_id must be set", {{"field", "load"}});
    }
    KEYLOAD_ASSIGN_OR_RETURN(const std::shared_ptr<SharedLoad> load,
                             request->has_load() ? rpc_.service->FindLoad(request->load())
                                                 : rpc_.service->FindLoadByRequestId(request->request_id()));
    *response->mutable_status() = ToProto(load->status());
    return absl::OkStatus();
  };
  return UnaryCall::Finished(rpc_, context, response, get());
}

// The page token is the last name of the page before: loads are listed in the order of their start.
grpc::ServerUnaryReactor* ModelLoaderServiceImpl::ListLoads(grpc::CallbackServerContext* context,
                                                            const RequestPtr<v1::ListLoadsRequest>& request,
                                                            v1::ListLoadsResponse* response) {
  const absl::StatusOr<size_t> page = PageSize(request->page_size());
  if (!page.ok()) return FinishNow(context, page.status());
  const auto loads = rpc_.service->ListLoads(request->page_token(), *page + 1);
  if (!loads.ok()) return FinishNow(context, loads.status());
  size_t bytes = 0;
  for (const std::shared_ptr<SharedLoad>& load : *loads) {
    v1::LoadStatus status = ToProto(load->status());
    bytes += status.ByteSizeLong();
    if (PageIsFull(static_cast<size_t>(response->loads_size()), *page, bytes)) {
      response->set_next_page_token(response->loads(response->loads_size() - 1).load());
      break;
    }
    *response->add_loads() = std::move(status);
  }
  return UnaryCall::Finished(rpc_, context, response, absl::OkStatus());
}

grpc::ServerUnaryReactor* ModelLoaderServiceImpl::CancelLoad(grpc::CallbackServerContext* context,
                                                             const RequestPtr<v1::CancelLoadRequest>& request,
                                                             v1::CancelLoadResponse* /*response*/) {
  const absl::StatusOr<std::shared_ptr<SharedLoad>> load = rpc_.service->FindLoad(request->load());
  AuditEntry audit = AuditOf(*request);
  if (load.ok()) {
    audit.model = (*load)->identity().model;
    (*load)->Stop();
  }
  return FinishNow(rpc_, context, load.status(), std::move(audit));
}

grpc::ServerWriteReactor<v1::WatchLoadResponse>* ModelLoaderServiceImpl::WatchLoad(
    grpc::CallbackServerContext* context, const RequestPtr<v1::WatchLoadRequest>& request) {
  auto* const call = new WatchLoadCall(rpc_, *context);
  call->Start(rpc_, request->load());
  return call;
}

}  // namespace keyload
