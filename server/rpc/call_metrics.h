#pragma once

#include <grpcpp/support/server_interceptor.h>

#include <memory>
#include <string>
#include <vector>

#include "server/metrics/metrics.h"

namespace keyload {

// The short names of the contract's methods: what Metrics tells apart.
std::vector<std::string> RpcMethodNames();

// For ServerBuilder: counts every call in `metrics`, which outlives the server. A call ends when its status is given to
// gRPC, before the client can see it, or, without one, as CANCELLED. Takes no lock and blocks on nothing.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> CountCalls(Metrics& metrics);

}  // namespace keyload
