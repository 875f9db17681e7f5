#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/access/reloading.h"
#include "server/access/tokens.h"
#include "server/base/role.h"

namespace keyload {

// What one call brings along to be known by. Views borrow from the call.
struct CallCredentials {
  bool on_unix_socket = false;                  // its process was looked at when it connected
  std::vector<std::string_view> authorization;  // every value of the metadata of that name
  std::string certificate;                      // the name in the client's verified certificate; empty: it has none
};

// Decides who calls and what that may do. Thread-safe.
class AccessControl {
 public:
  // `tokens` outlives it; null: there are none, and whoever gets as far as making a call may do everything.
  AccessControl(const Reloading<Tokens>* tokens, Role socket_role) : tokens_(tokens), socket_role_(socket_role) {}

  // A token that is shown must be a known one. Without one, a caller on a Unix socket has the socket's role, and one
  // over TCP is refused where there are tokens. TOKEN_MISSING, TOKEN_INVALID.
  absl::StatusOr<Principal> Identify(const CallCredentials& credentials) const;

 private:
  const Reloading<Tokens>* const tokens_;
  const Role socket_role_;
};

// ROLE_INSUFFICIENT names `method`, the role and the one that it takes.
absl::Status CheckRole(const Principal& principal, Role needed, std::string_view method);

}  // namespace keyload
