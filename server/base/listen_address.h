#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace keyload {

// What the address of a Unix socket begins with: "unix:/run/keyload/keyload.sock".
inline constexpr std::string_view kUnixPrefix = "unix:";

// "HOST:PORT" in its parts; an IPv6 host without its brackets.
struct HostPort {
  std::string host;
  std::string port;
};

// REQUIRES: `address` has a colon.
HostPort SplitHostPort(std::string_view address);

// Of an IPv4 or IPv6 name; others are left as they are.
void SetPort(sockaddr& name, uint16_t port);

// BAD_REQUEST with the address that cannot be listened on.
absl::Status CannotListen(std::string_view address, std::string_view why);

}  // namespace keyload
