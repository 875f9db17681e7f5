#pragma once

#include <grpcpp/support/server_callback.h>

#include "keyload/v1/model_loader.pb.h"
#include "server/rpc/request_ptr.h"
#include "server/rpc/rpc_context.h"

namespace keyload {

// LoadModel: one load, answered at its end. COMPLETE, INCOMPLETE and REJECTED are OK; FAILED and CANCELLED are the
// load's error, with the load's name in its metadata. Cancelling the call cancels the load.
grpc::ServerUnaryReactor* StartLoadModel(const RpcContext& rpc, grpc::CallbackServerContext* context,
                                         const RequestPtr<v1::LoadModelRequest>& request,
                                         v1::LoadModelResponse* response);

}  // namespace keyload
