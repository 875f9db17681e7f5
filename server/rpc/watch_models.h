#pragma once

#include "keyload/v1/model_loader.grpc.pb.h"
#include "server/rpc/request_ptr.h"
#include "server/rpc/rpc_context.h"

namespace keyload {

// The WatchModels stream: what is there, then every change, the last state of each model when the client is slow.
grpc::ServerWriteReactor<v1::WatchModelsResponse>* StartWatchModels(const RpcContext& rpc,
                                                                    grpc::CallbackServerContext* context,
                                                                    const RequestPtr<v1::WatchModelsRequest>& request);

}  // namespace keyload
