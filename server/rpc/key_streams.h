#pragma once

#include <grpcpp/support/server_callback.h>

#include "keyload/v1/model_loader.pb.h"
#include "server/rpc/rpc_context.h"

namespace keyload {

// Handlers of the streaming reads and of the upload; each returned reactor deletes itself.
grpc::ServerWriteReactor<v1::ListKeysResponse>* StartListKeys(const RpcContext& rpc,
                                                              grpc::CallbackServerContext* context,
                                                              const v1::ListKeysRequest* request);
grpc::ServerWriteReactor<v1::ReadTensorsResponse>* StartReadTensors(const RpcContext& rpc,
                                                                    grpc::CallbackServerContext* context,
                                                                    const v1::ReadTensorsRequest* request);
grpc::ServerReadReactor<v1::UploadDocumentRequest>* StartUploadDocument(const RpcContext& rpc,
                                                                        grpc::CallbackServerContext* context,
                                                                        v1::UploadDocumentResponse* response);

}  // namespace keyload
