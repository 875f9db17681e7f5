#pragma once

#include <grpcpp/impl/codegen/rpc_service_method.h>

#include <memory>
#include <utility>

namespace keyload {

// gRPC answers a request that it cannot parse with UNIMPLEMENTED, as if the method were not there. This handler gives
// such a call to another one that says what is wrong. Both take the same request and response.
class StrictHandler : public grpc::internal::MethodHandler {
 public:
  using MethodHandler = grpc::internal::MethodHandler;

  // `refusing` is not to look at its request.
  StrictHandler(std::unique_ptr<MethodHandler> handler, std::unique_ptr<MethodHandler> refusing)
      : handler_(std::move(handler)), refusing_(std::move(refusing)) {}

  void RunHandler(const HandlerParameter& call) override {
    if (call.status.ok()) return handler_->RunHandler(call);
    refusing_->RunHandler(HandlerParameter(call.call, call.server_context, call.request, grpc::Status::OK,
                                           call.internal_data, call.call_requester));
  }
  void* Deserialize(grpc_call* call, grpc_byte_buffer* bytes, grpc::Status* status, void** data) override {
    return handler_->Deserialize(call, bytes, status, data);
  }

 private:
  const std::unique_ptr<MethodHandler> handler_;
  const std::unique_ptr<MethodHandler> refusing_;
};

}  // namespace keyload
