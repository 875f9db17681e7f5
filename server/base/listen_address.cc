#include "server/base/listen_address.h"

#include <netinet/in.h>

#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {

HostPort SplitHostPort(std::string_view address) {
  const size_t colon = address.rfind(':');
  std::string_view host = address.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  return {.host = std::string(host), .port = std::string(address.substr(colon + 1))};
}

void SetPort(sockaddr& name, uint16_t port) {
  if (name.sa_family == AF_INET) reinterpret_cast<sockaddr_in&>(name).sin_port = htons(port);
  if (name.sa_family == AF_INET6) reinterpret_cast<sockaddr_in6&>(name).sin6_port = htons(port);
}

absl::Status CannotListen(std::string_view address, std::string_view why) {
  return MakeError(Reason::kBadRequest, StrCat("cannot listen on ", address, ": ", why),
                   {{"address", std::string(address)}});
}

}  // namespace keyload
