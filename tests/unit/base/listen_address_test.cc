#include "server/base/listen_address.h"

#include <gtest/gtest.h>
#include <netinet/in.h>

#include "server/base/error.h"

namespace keyload {
namespace {

TEST(SplitHostPort, SplitsAtTheLastColonAndTakesBracketsOff) {
  EXPECT_EQ(SplitHostPort("node-7:7077").host, "node-7");
  EXPECT_EQ(SplitHostPort("node-7:7077").port, "7077");
  EXPECT_EQ(SplitHostPort("[::1]:0").host, "::1");
  EXPECT_EQ(SplitHostPort("[::1]:0").port, "0");
  EXPECT_EQ(SplitHostPort("[::1:1").host, "[::1");
}

TEST(SetPort, SetsThatOfBothFamiliesInNetworkOrder) {
  sockaddr_in four = {.sin_family = AF_INET};
  SetPort(reinterpret_cast<sockaddr&>(four), 7077);
  EXPECT_EQ(four.sin_port, htons(7077));
  sockaddr_in6 six = {.sin6_family = AF_INET6};
  SetPort(reinterpret_cast<sockaddr&>(six), 7077);
  EXPECT_EQ(six.sin6_port, htons(7077));
}

TEST(CannotListen, NamesTheAddress) {
  const absl::Status status = CannotListen("node:1", "why");
  EXPECT_EQ(ErrorReason(status), Reason::kBadRequest);
  EXPECT_EQ(status.message(), "cannot listen on node:1: why");
  EXPECT_EQ(ErrorDetails(status).at("address"), "node:1");
}

}  // namespace
}  // namespace keyload
