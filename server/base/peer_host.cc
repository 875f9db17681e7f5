#include "server/base/peer_host.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>

namespace keyload {
namespace {

constexpr std::string_view kIpv4 = "ipv4:";
constexpr std::string_view kIpv6 = "ipv6:";

}  // namespace

std::string HostOfAddress(const in6_addr& address) {
  char text[INET6_ADDRSTRLEN] = {};
  if (IN6_IS_ADDR_V4MAPPED(&address)) {
    inet_ntop(AF_INET, address.s6_addr + 12, text, sizeof(text));
    return text;
  }
  in6_addr network = address;
  std::fill(network.s6_addr + 8, network.s6_addr + 16, uint8_t{0});
  inet_ntop(AF_INET6, &network, text, sizeof(text));
  return std::string(text) + "/64";
}

std::string HostOfPeer(std::string_view peer) {
  if (peer.starts_with("unix")) return "unix";
  std::string_view host = peer.substr(0, peer.rfind(':'));
  if (host.starts_with(kIpv4)) return std::string(host.substr(kIpv4.size()));
  if (!host.starts_with(kIpv6)) return std::string(host);
  host.remove_prefix(kIpv6.size());
  for (const std::string_view open : {"%5B", "["}) {  // escaped as in a URI, or not
    if (host.starts_with(open)) host.remove_prefix(open.size());
  }
  host = host.substr(0, host.find_first_of("%]"));  // what closes it, or a zone
  in6_addr address = {};
  return inet_pton(AF_INET6, std::string(host).c_str(), &address) == 1 ? HostOfAddress(address) : std::string(host);
}

}  // namespace keyload
