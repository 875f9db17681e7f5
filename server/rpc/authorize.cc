#include "server/rpc/authorize.h"

#include <grpcpp/security/auth_context.h>

#include <string>
#include <string_view>

#include "server/base/error.h"
#include "server/base/log.h"

namespace keyload {
namespace {

// The first name of a certificate that gRPC has verified; empty without one.
std::string CertificateName(const grpc::ServerContextBase& context) {
  const std::shared_ptr<const grpc::AuthContext> auth = context.auth_context();
  if (auth == nullptr || !auth->IsPeerAuthenticated()) return "";
  const std::vector<grpc::string_ref> names = auth->GetPeerIdentity();
  return names.empty() ? "" : std::string(names[0].data(), names[0].size());
}

}  // namespace

absl::StatusOr<Principal> Identify(const AccessControl& access, const grpc::ServerContextBase& context) {
  CallCredentials credentials = {.on_unix_socket = context.peer().starts_with("unix:"),
                                 .authorization = {},
                                 .certificate = CertificateName(context)};
  const auto [begin, end] = context.client_metadata().equal_range("authorization");
  for (auto it = begin; it != end; ++it) credentials.authorization.emplace_back(it->second.data(), it->second.size());
  return access.Identify(credentials);
}

absl::Status Authorize(const AccessControl& access, const grpc::ServerContextBase& context, Role needed,
                       std::string_view method) {
  KEYLOAD_ASSIGN_OR_RETURN(const Principal principal, Identify(access, context));
  return CheckRole(principal, needed, method);
}

bool TellRefusal(const absl::Status& refusal, std::string_view method, const Caller& caller, Metrics& metrics,
                 LogLimiter& limiter) {
  metrics.AuthenticationFailed(ErrorReason(refusal));
  return limiter.Log(LogLevel::kWarning, "call refused",
                     {{"method", std::string(method)},
                      {"reason", std::string(ReasonName(ErrorReason(refusal)))},
                      {"caller", caller.name},
                      {"peer", caller.peer}},
                     &caller);
}

}  // namespace keyload
