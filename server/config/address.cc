#include "server/config/address.h"

#include <arpa/inet.h>
#include <sys/un.h>

#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "server/base/error.h"

namespace keyload {
namespace {

constexpr std::string_view kUnix = "unix:";
constexpr size_t kMaxSocketPath = sizeof(sockaddr_un::sun_path) - 1;

absl::Status BadAddress(std::string_view address, std::string_view why) {
  return MakeError(Reason::kBadRequest, absl::StrFormat("address \"%s\": %s", address, why),
                   {{"address", std::string(address)}});
}

absl::Status CheckSocketPath(std::string_view address, std::string_view path) {
  if (!path.starts_with('/')) return BadAddress(address, "the path of a Unix socket must be absolute");
  if (path.ends_with('/')) return BadAddress(address, "the path of a Unix socket must name a file");
  if (path.size() > kMaxSocketPath) {
    return BadAddress(address,
                      absl::StrFormat("the path has %d bytes, a Unix socket allows %d", path.size(), kMaxSocketPath));
  }
  if (path.find('\0') != std::string_view::npos) return BadAddress(address, "the path has a zero byte");
  return absl::OkStatus();
}

}  // namespace

bool IsUnixAddress(std::string_view address) { return address.starts_with(kUnix); }

bool IsLoopbackAddress(std::string_view address) {
  const std::string_view host = address.substr(0, address.rfind(':'));
  if (host == "localhost" || host == "[::1]") return true;
  in_addr parsed{};
  return inet_pton(AF_INET, std::string(host).c_str(), &parsed) == 1 && (ntohl(parsed.s_addr) >> 24) == 127;
}

absl::Status CheckListenAddress(std::string_view address) {
  if (IsUnixAddress(address)) return CheckSocketPath(address, address.substr(kUnix.size()));
  return CheckTcpAddress(address);
}

absl::Status CheckTcpAddress(std::string_view address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string_view::npos) return BadAddress(address, "expected unix:PATH or HOST:PORT");
  const std::string_view host = address.substr(0, colon);
  const std::string_view port = address.substr(colon + 1);
  uint32_t number = 0;
  if (port.find_first_not_of("0123456789") != std::string_view::npos || !absl::SimpleAtoi(std::string(port), &number) ||
      number > 65535) {
    return BadAddress(address, "the port must be a number from 0 to 65535");
  }
  // gRPC has schemes besides, "unix-abstract:" for one, and this is none of them.
  const bool is_name =
      host.find_first_not_of("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-_[]:%") ==
      std::string_view::npos;
  if (!is_name || host.starts_with("unix") || host.starts_with("vsock")) {
    return BadAddress(address, "the host is no name and no IP address");
  }
  if (host.empty()) return BadAddress(address, "the host is missing; every interface is 0.0.0.0 or [::]");
  if (!host.starts_with('[') && host.find(':') != std::string_view::npos) {
    return BadAddress(address, "an IPv6 host must stand in brackets, as in [::1]:7077");
  }
  return absl::OkStatus();
}

}  // namespace keyload
