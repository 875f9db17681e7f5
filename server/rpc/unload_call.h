#pragma once

#include <grpcpp/support/server_callback.h>

#include "keyload/v1/model_loader.pb.h"
#include "server/rpc/request_ptr.h"
#include "server/rpc/rpc_context.h"

namespace keyload {

// UnloadModel: answered when the model's last user is done; no thread waits for that. A caller that goes away ends its
// wait, not the unloading.
grpc::ServerUnaryReactor* StartUnloadModel(const RpcContext& rpc, grpc::CallbackServerContext* context,
                                           const RequestPtr<v1::UnloadModelRequest>& request,
                                           v1::UnloadModelResponse* response);

}  // namespace keyload
