#pragma once

#include <grpcpp/impl/service_type.h>

#include <memory>

#include "server/rpc/rpc_context.h"

namespace keyload {

// The contract's handlers behind the checks that every call passes: the caller may make it (the table in the source
// says which role each method takes), there is room for one more call, and the request is a message of which this
// server knows every field. REQUIRES: `rpc` has its `access`.
std::unique_ptr<grpc::Service> MakeGuardedService(const RpcContext& rpc);

}  // namespace keyload
