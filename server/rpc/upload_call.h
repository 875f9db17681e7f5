#pragma once

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "keyload/v1/model_loader.pb.h"
#include "server/rpc/rpc_context.h"

namespace keyload {

// The handler of UploadDocument; the returned reactor deletes itself.
grpc::ServerReadReactor<grpc::ByteBuffer>* StartUploadDocument(const RpcContext& rpc,
                                                               grpc::CallbackServerContext* context,
                                                               v1::UploadDocumentResponse* response);

}  // namespace keyload
