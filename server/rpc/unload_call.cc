#include "server/rpc/unload_call.h"

#include <atomic>
#include <memory>

#include "server/base/error.h"
#include "server/rpc/grpc_status.h"

namespace keyload {
namespace {

class UnloadCall : public grpc::ServerUnaryReactor, public LiveCall {
 public:
  UnloadCall(const RpcContext& rpc, v1::UnloadModelResponse* response) : calls_(*rpc.calls), response_(*response) {
    calls_.Add(this);
  }

  void Start(const RpcContext& rpc, const v1::UnloadModelRequest& request) {
    const bool queued = rpc.unloads->TrySubmit([service = rpc.service, model = request.model(), waiting = waiting_]() {
      const absl::Status status =
          service->Unload(model, [waiting](const ModelRegistry::Unloaded& unloaded) { End(*waiting, unloaded); });
      if (!status.ok()) End(*waiting, status);
    });
    if (!queued) End(*waiting_, TooManyWaiting());
  }

  void OnCancel() override {
    End(*waiting_, MakeError(Reason::kLoadCancelled, "nobody waits any more; the model goes with its last user"));
  }
  void OnDone() override { delete this; }
  void Drain() override {}  // it is waiting for its answer
  void Cancel() override { OnCancel(); }

 private:
  // The call until it is finished, then null: whoever takes it out finishes it. Outlives the call, as the model's last
  // user may be done long after the caller went away.
  using Waiting = std::atomic<UnloadCall*>;

  ~UnloadCall() override { calls_.Remove(this); }

  static void End(Waiting& waiting, const absl::StatusOr<ModelRegistry::Unloaded>& result) {
    UnloadCall* const call = waiting.exchange(nullptr);
    if (call == nullptr) return;
    if (result.ok()) {
      call->response_.set_was_loaded(result->was_loaded);
      call->response_.set_freed_bytes(result->freed_bytes);
    }
    call->Finish(ToGrpcStatus(result.status()));
  }

  LiveCalls& calls_;
  v1::UnloadModelResponse& response_;
  const std::shared_ptr<Waiting> waiting_ = std::make_shared<Waiting>(this);
};

}  // namespace

grpc::ServerUnaryReactor* StartUnloadModel(const RpcContext& rpc, const v1::UnloadModelRequest* request,
                                           v1::UnloadModelResponse* response) {
  auto* const call = new UnloadCall(rpc, response);
  call->Start(rpc, *request);
  return call;
}

}  // namespace keyload
