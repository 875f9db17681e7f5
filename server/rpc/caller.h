#pragma once

#include <grpcpp/server_context.h>

#include <memory>
#include <string>
#include <string_view>

#include "server/access/access_control.h"
#include "server/base/request_context.h"

namespace keyload {

// Who makes the call, for the log: what the connection and the call's metadata say of it. `access` knows names; null:
// nobody has one. Never null; holds nothing of the context. Thread-safe, does not block.
std::shared_ptr<const Caller> CallerOf(const AccessControl* access, const grpc::CallbackServerContext& context);

// Whom a call counts against where calls and bytes are bounded per peer: as where threads are shared out, see
// Caller::share.
std::string PeerOf(const Caller& caller);

// The version, trace id, parent id and flags of a W3C `traceparent`: its first 55 characters. Empty for what is none: a
// version that does not exist, an id of zeros, anything that is not lower-case hexadecimal. A later version may have
// more behind them, which is not taken.
std::string ParseTraceparent(std::string_view text);

}  // namespace keyload
