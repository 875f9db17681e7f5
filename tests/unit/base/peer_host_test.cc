#include "server/base/peer_host.h"

#include <gtest/gtest.h>

namespace keyload {
namespace {

TEST(PeerHost, IsThePeerWithoutItsPort) {
  EXPECT_EQ(HostOfPeer("ipv4:10.0.0.1:40312"), "10.0.0.1");
  EXPECT_EQ(HostOfPeer("unix:"), "unix");
  EXPECT_EQ(HostOfPeer("unix:/tmp/a-path-of-the-clients-choice"), "unix");
  EXPECT_EQ(HostOfPeer(""), "");
}

TEST(PeerHost, OfAnIpv6AddressTheFirst64BitsCount) {
  EXPECT_EQ(HostOfPeer("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:40312"), "2001:db8:1:2::/64");
  EXPECT_EQ(HostOfPeer("ipv6:[2001:db8:1:2:ffff::9]:1"), "2001:db8:1:2::/64");
  EXPECT_EQ(HostOfPeer("ipv6:%5Bfe80::1%25eth0%5D:1"), "fe80::/64");
  EXPECT_EQ(HostOfPeer("ipv6:%5B2001:db8:1:3::1%5D:1"), "2001:db8:1:3::/64");
}

TEST(PeerHost, AnIpv4AddressInsideAnIpv6OneIsThat) {
  EXPECT_EQ(HostOfPeer("ipv6:%5B::ffff:10.0.0.1%5D:40312"), "10.0.0.1");
}

}  // namespace
}  // namespace keyload
