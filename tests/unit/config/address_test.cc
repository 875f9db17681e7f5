#include "server/config/address.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace keyload {
namespace {

using ::testing::HasSubstr;

std::string Refusal(const std::string& address) { return std::string(CheckListenAddress(address).message()); }

TEST(CheckListenAddress, AcceptsUnixSocketsAndTcp) {
  for (const char* address : {"unix:/run/keyload/keyload.sock", "127.0.0.1:7077", "127.1.2.3:0", "localhost:65535",
                              "[::1]:7077", "0.0.0.0:7077", "[::]:7077", "node-7.example:7077"}) {
    EXPECT_TRUE(CheckListenAddress(address).ok()) << CheckListenAddress(address);
  }
}

TEST(CheckTcpAddress, RefusesAUnixSocket) {
  EXPECT_FALSE(CheckTcpAddress("unix:/run/keyload/keyload.sock").ok());
  EXPECT_TRUE(CheckTcpAddress("0.0.0.0:7077").ok());
}

TEST(IsLoopbackAddress, TellsWhatOnlyThisMachineReaches) {
  for (const char* address : {"127.0.0.1:7077", "127.1.2.3:0", "localhost:1", "[::1]:7077"}) {
    EXPECT_TRUE(IsLoopbackAddress(address)) << address;
  }
  for (const char* address : {"0.0.0.0:7077", "10.0.0.1:7077", "[::]:7077", "node-7:7077", "127.0.0.1.example:7077",
                              "128.0.0.1:1", "localhost.example:1", "[::ffff:127.0.0.1]:1"}) {
    EXPECT_FALSE(IsLoopbackAddress(address)) << address;
  }
}

TEST(CheckListenAddress, RefusesASocketPathThatTheKernelWouldCut) {
  EXPECT_TRUE(CheckListenAddress("unix:/" + std::string(106, 'a')).ok());
  EXPECT_THAT(Refusal("unix:/" + std::string(107, 'a')), HasSubstr("108 bytes, a Unix socket allows 107"));
}

TEST(CheckListenAddress, RefusesASocketPathThatIsNotAnAbsoluteFile) {
  EXPECT_THAT(Refusal("unix:keyload.sock"), HasSubstr("must be absolute"));
  EXPECT_THAT(Refusal("unix:"), HasSubstr("must be absolute"));
  EXPECT_THAT(Refusal("unix:/run/keyload/"), HasSubstr("must name a file"));
  EXPECT_THAT(Refusal(std::string("unix:/a\0b", 9)), HasSubstr("zero byte"));
}

TEST(CheckListenAddress, RefusesWhatIsNoAddress) {
  EXPECT_THAT(Refusal("keyload"), HasSubstr("expected unix:PATH or HOST:PORT"));
  EXPECT_THAT(Refusal(""), HasSubstr("expected unix:PATH or HOST:PORT"));
  EXPECT_THAT(Refusal(":7077"), HasSubstr("host is missing"));
  EXPECT_THAT(Refusal("::1:7077"), HasSubstr("brackets"));
  for (const char* address : {"unix-abstract:7077", "vsock:1:2", "a b:1", "a/b:1"}) {
    EXPECT_THAT(Refusal(address), HasSubstr("no name and no IP address")) << address;
  }
  for (const char* address :
       {"localhost:", "localhost:65536", "localhost:-1", "localhost:+1", "localhost: 1", "localhost:http", "[::1]"}) {
    EXPECT_THAT(Refusal(address), HasSubstr("port must be a number")) << address;
  }
}

}  // namespace
}  // namespace keyload
