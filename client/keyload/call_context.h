#pragma once

#include <stop_token>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcpp/client_context.h"
#include "keyload/client.h"

namespace keyload::client_internal {

// A grpc::ClientContext that ends with the options' timeout and, while this object lives, with their stop request.
// Confined to the thread that makes the call.
class CallContext {
 public:
  explicit CallContext(const CallOptions& options) : on_stop_(options.stop, CancelCall{&context_}) {
    SetDeadline(context_, options.timeout);
  }

  grpc::ClientContext* get() { return &context_; }

  static void SetDeadline(grpc::ClientContext& context, absl::Duration timeout) {
    if (timeout == absl::InfiniteDuration()) return;
    context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  }

 private:
  struct CancelCall {
    grpc::ClientContext* context;
    void operator()() const { context->TryCancel(); }
  };

  grpc::ClientContext context_;
  std::stop_callback<CancelCall> on_stop_;
};

}  // namespace keyload::client_internal
