#pragma once

#include <algorithm>
#include <stop_token>
#include <string_view>

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
    Apply(options, context_);
  }

  grpc::ClientContext* get() { return &context_; }

  // The timeout from now, and the metadata. Before the call begins.
  static void Apply(const CallOptions& options, grpc::ClientContext& context) {
    if (options.timeout != absl::InfiniteDuration()) {
      context.set_deadline(absl::ToChronoTime(absl::Now() + options.timeout));
    }
    if (IsMetadata(options.traceparent)) context.AddMetadata("traceparent", options.traceparent);
  }

 private:
  // gRPC aborts the process on other values.
  static bool IsMetadata(std::string_view text) {
    constexpr size_t kMost = 256;
    return !text.empty() && text.size() <= kMost &&
           std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c <= '~'; });
  }

  struct CancelCall {
    grpc::ClientContext* context;
    void operator()() const { context->TryCancel(); }
  };

  grpc::ClientContext context_;
  std::stop_callback<CancelCall> on_stop_;
};

}  // namespace keyload::client_internal
