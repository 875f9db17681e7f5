#pragma once

#include <string>
#include <string_view>

struct in6_addr;

namespace keyload {

// Which host an address belongs to, where what one host does is counted: one host usually has all the IPv6 addresses
// behind the first 64 bits, so these stand for it ("2001:db8::/64"). An IPv4 address inside an IPv6 one is that.
std::string HostOfAddress(const in6_addr& address);

// The host of a peer as gRPC names it: "10.0.0.1" of "ipv4:10.0.0.1:40312", "2001:db8::/64" of
// "ipv6:%5B2001:db8::1%5D:40312", "unix" of any Unix socket. What is neither is taken as it is, without a port.
std::string HostOfPeer(std::string_view peer);

}  // namespace keyload
