#pragma once

#include <grpcpp/server_context.h>

#include "absl/status/statusor.h"
#include "server/access/access_control.h"

namespace keyload {

// Who makes the call, by its metadata and its connection. TOKEN_MISSING, TOKEN_INVALID. Never blocks.
absl::StatusOr<Principal> Identify(const AccessControl& access, const grpc::ServerContextBase& context);

}  // namespace keyload
