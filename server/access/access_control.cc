#include "server/access/access_control.h"

#include <optional>

#include "absl/strings/match.h"
#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

constexpr std::string_view kScheme = "Bearer ";

std::string_view RoleName(Role role) {
  constexpr std::string_view kNames[] = {"none", "read", "load", "admin"};
  return kNames[static_cast<int>(role)];
}

absl::StatusOr<std::string_view> BearerToken(const std::vector<std::string_view>& authorization) {
  const std::string_view value = authorization[0];
  // The scheme's case does not matter: RFC 9110, section 11.1.
  if (authorization.size() > 1 || value.size() == kScheme.size() ||
      !absl::StartsWithIgnoreCase(ToAbsl(value), ToAbsl(kScheme))) {
    return MakeError(Reason::kTokenInvalid, "the authorization metadata must be one \"Bearer TOKEN\"");
  }
  return value.substr(kScheme.size());
}

}  // namespace

absl::StatusOr<Principal> AccessControl::Identify(const CallCredentials& credentials) const {
  if (tokens_ != nullptr && !credentials.authorization.empty()) {
    KEYLOAD_ASSIGN_OR_RETURN(const std::string_view token, BearerToken(credentials.authorization));
    std::optional<Principal> known = tokens_->get()->Find(token);
    if (!known) return MakeError(Reason::kTokenInvalid, "the token is not known here");
    known->name = StrCat("token:", known->name);
    return *std::move(known);
  }
  if (credentials.on_unix_socket) {
    if (socket_role_ != Role::kNone) return Principal{.name = "socket", .role = socket_role_};
  } else if (tokens_ == nullptr) {
    return Principal{.name = credentials.certificate.empty() ? "" : StrCat("certificate:", credentials.certificate),
                     .role = Role::kAdmin};
  }
  return MakeError(Reason::kTokenMissing, "this server wants a token: authorization metadata \"Bearer TOKEN\"");
}

absl::Status CheckRole(const Principal& principal, Role needed, std::string_view method) {
  if (principal.role >= needed) return absl::OkStatus();
  return MakeError(
      Reason::kRoleInsufficient,
      StrCat(method, " takes the role ", RoleName(needed), ", ", principal.name, " has ", RoleName(principal.role)),
      {{"method", std::string(method)},
       {"role", std::string(RoleName(principal.role))},
       {"needed", std::string(RoleName(needed))}});
}

}  // namespace keyload
