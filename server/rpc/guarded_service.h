#pragma once

#include <grpcpp/impl/service_type.h>

#include <memory>

#include "server/rpc/rpc_context.h"

namespace keyload {

// The contract's handlers behind a check of who calls: the table in the source says which role each method takes.
// REQUIRES: `rpc` has its `access`.
std::unique_ptr<grpc::Service> MakeGuardedService(const RpcContext& rpc);

}  // namespace keyload
