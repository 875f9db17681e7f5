#pragma once

#include <grpcpp/server_context.h>

#include <string_view>

#include "absl/status/statusor.h"
#include "server/access/access_control.h"
#include "server/base/log_limiter.h"
#include "server/base/request_context.h"
#include "server/metrics/metrics.h"

namespace keyload {

// Who makes the call, by its metadata and its connection. TOKEN_MISSING, TOKEN_INVALID. Never blocks.
absl::StatusOr<Principal> Identify(const AccessControl& access, const grpc::ServerContextBase& context);

// Whether that has the role which `method` takes; ROLE_INSUFFICIENT besides. Never blocks.
absl::Status Authorize(const AccessControl& access, const grpc::ServerContextBase& context, Role needed,
                       std::string_view method);

// Counts what Authorize has refused, and writes the line `call refused` if `limiter` admits it. False: it does not, and
// the audit line of the refusal is not to be written either. Thread-safe.
bool TellRefusal(const absl::Status& refusal, std::string_view method, const Caller& caller, Metrics& metrics,
                 LogLimiter& limiter);

}  // namespace keyload
