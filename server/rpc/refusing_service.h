#pragma once

#include <grpcpp/generic/async_generic_service.h>

#include "absl/status/status.h"
#include "server/rpc/grpc_status.h"

namespace keyload {

// Answers every call of every service with one error: for connections of processes that are not served, which learn why
// instead of seeing a closed socket.
class RefusingService : public grpc::CallbackGenericService {
 public:
  explicit RefusingService(const absl::Status& why) : why_(ToGrpcStatus(why)) {}

 private:
  class Refusal : public grpc::ServerGenericBidiReactor {
   public:
    explicit Refusal(const grpc::Status& why) { Finish(why); }
    void OnDone() override { delete this; }
  };
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* /*context*/) override {
    return new Refusal(why_);
  }

  const grpc::Status why_;
};

}  // namespace keyload
