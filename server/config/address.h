#pragma once

#include <string_view>

#include "absl/status/status.h"

namespace keyload {

// OK for "HOST:PORT", where HOST is a name, an IPv4 address or an IPv6 one in brackets; port 0 asks for a free one.
// BAD_REQUEST otherwise.
absl::Status CheckTcpAddress(std::string_view address);
// The same, or "unix:PATH" (absolute, at most 107 bytes).
absl::Status CheckListenAddress(std::string_view address);

bool IsUnixAddress(std::string_view address);
// Only this machine reaches it: localhost, 127.x.y.z or [::1]. REQUIRES: CheckTcpAddress(address).ok().
bool IsLoopbackAddress(std::string_view address);

}  // namespace keyload
