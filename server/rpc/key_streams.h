#pragma once

#include <grpcpp/support/server_callback.h>

#include "keyload/v1/model_loader.pb.h"
#include "server/rpc/request_ptr.h"
#include "server/rpc/rpc_context.h"

namespace keyload {

// Handlers of the streaming reads; each returned reactor deletes itself.
grpc::ServerWriteReactor<v1::ListKeysResponse>* StartListKeys(const RpcContext& rpc,
                                                              grpc::CallbackServerContext* context,
                                                              const RequestPtr<v1::ListKeysRequest>& request);
grpc::ServerWriteReactor<v1::ReadTensorsResponse>* StartReadTensors(const RpcContext& rpc,
                                                                    grpc::CallbackServerContext* context,
                                                                    const RequestPtr<v1::ReadTensorsRequest>& request);

}  // namespace keyload
