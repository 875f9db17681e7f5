#pragma once

#include <grpcpp/support/server_callback.h>

#include <chrono>
#include <string>
#include <utility>

#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/no_throw.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/read_rate.h"
#include "server/rpc/rpc_context.h"

namespace keyload {

// A response stream whose messages are made one at a time on an executor, each when it can be sent: after the client
// took the one before, and as large as the budget for answers allows. Deletes itself. Subclasses make the messages.
template <typename Response>
class ChunkStream : public grpc::ServerWriteReactor<Response>, public LiveCall {
 public:
  void OnWriteDone(bool ok) override {
    rate_.Taken(Clock::now());
    hold_.Release();
    ok ? Continue() : this->Finish(ToGrpcStatus(ClientIsGone()));
  }
  void OnCancel() override { stop_.request_stop(); }
  void OnDone() override { delete this; }
  void Drain() override {}  // it is sending its answer
  void Cancel() override {
    stop_.request_stop();
    context_.TryCancel();  // a write that the client does not take would wait for ever
  }
  void CancelIfUnread(Clock::time_point now, Clock::duration limit) override {
    if (!rate_.IsTooSlow(now, limit)) return;
    NoThrow([&] {
      Log(LogLevel::kWarning, "cancel", {{"message", std::string("the client takes too little of its stream")}},
          request_context_.caller.get());
    }).IgnoreError();
    Cancel();
  }

 protected:
  ChunkStream(const RpcContext& rpc, Executor& executor, grpc::CallbackServerContext& context)
      : rpc_(rpc),
        executor_(executor),
        context_(context),
        request_context_(ToRequestContext(rpc, context, stop_.get_token())),
        hold_(*rpc.send, PeerOf(*request_context_.caller)),
        entry_(*rpc.calls, this, PeerOf(*request_context_.caller)) {}

  // Fills the next message, with some `bytes`: true; false at the end. Runs on the executor and may block.
  virtual absl::StatusOr<bool> Next(Response& response, uint64_t bytes) = 0;
  // How large a message may be when nobody is short of memory.
  virtual uint64_t most_bytes() const = 0;

  // Makes and sends the next message. Called once by the subclass to begin.
  void Continue() {
    const absl::Status queued = NoThrow([this] {
      return executor_.Submit({.caller = request_context_.share(),
                               .run = [this] { Send(); },
                               .fail = [this](const absl::Status& thrown) { this->Finish(ToGrpcStatus(thrown)); }});
    });
    if (!queued.ok()) this->Finish(ToGrpcStatus(queued));
  }

  // Stops when the client goes away.
  const RequestContext& request_context() const { return request_context_; }

  const RpcContext rpc_;

 private:
  void Send() {
    response_.Clear();
    absl::StatusOr<bool> more = false;
    if (absl::Status status = request_context_.Check(); !status.ok()) {
      more = status;
    } else {
      more = Next(response_, hold_.TakeChunk(most_bytes()));
    }
    if (!more.ok() || !*more) return this->Finish(ToGrpcStatus(more.status()));
    const size_t bytes = response_.ByteSizeLong();
    hold_.Shrink(bytes);
    rate_.Sent(Clock::now(), bytes);
    this->StartWrite(&response_);
  }

  Executor& executor_;
  grpc::CallbackServerContext& context_;
  std::stop_source stop_;  // before request_context_, which holds its token
  const RequestContext request_context_;
  SendBudget::Hold hold_;
  ReadRate rate_;
  Response response_;
  const LiveCalls::Entry entry_;
};

}  // namespace keyload
