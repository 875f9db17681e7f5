#include "client/cli/connection_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/checkpoint_builder.h"

namespace keyload::cli {
namespace {

using testing::HasSubstr;

std::string Refusal(const ConnectionFlags& flags) {
  const absl::StatusOr<ClientOptions> options = ReadConnection(flags);
  EXPECT_FALSE(options.ok());
  return std::string(options.status().message());
}

TEST(ReadConnection, ReadsTheFilesThatAreNamed) {
  TempDir dir;
  for (const char* const name : {"ca", "cert", "key"}) WriteFile(dir.File(name), name);
  WriteFile(dir.File("token"), "  secret\r\n");
  const auto options = ReadConnection({.server = "node:1",
                                       .tls_ca = dir.File("ca"),
                                       .tls_cert = dir.File("cert"),
                                       .tls_key = dir.File("key"),
                                       .token_file = dir.File("token")});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->address, "node:1");
  EXPECT_EQ(options->tls->ca, "ca");
  EXPECT_EQ(options->tls->cert, "cert");
  EXPECT_EQ(options->tls->key, "key");
  EXPECT_EQ(options->token, "secret");
  EXPECT_FALSE(ReadConnection({})->tls.has_value());
}

TEST(ReadConnection, RefusesHalfOfAPairAndFilesThatSayNothing) {
  TempDir dir;
  WriteFile(dir.File("empty"), "\n");
  EXPECT_THAT(Refusal({.tls_ca = dir.File("empty"), .tls_cert = "c"}), HasSubstr("go together"));
  EXPECT_THAT(Refusal({.tls_cert = "c", .tls_key = "k"}), HasSubstr("--tls-ca is missing"));
  EXPECT_THAT(Refusal({.tls_ca = dir.File("absent")}), HasSubstr("absent"));
  EXPECT_THAT(Refusal({.token_file = dir.File("empty")}), HasSubstr("is empty"));
}

absl::Status Connect(const ClientOptions& options) { return Client::Connect(options).status(); }

TEST(ConnectWithCredentials, ATokenStaysOnThisMachineOrGoesEncrypted) {
  for (const char* const address : {"unix:/s", "localhost:1", "127.0.0.1:1", "[::1]:1"}) {
    EXPECT_TRUE(Connect({.address = address, .token = "t"}).ok()) << address;
  }
  for (const char* const address :
       {"node:1", "10.0.0.1:1", "localhost.example:1", "127.example:1", "dns:///localhost:1"}) {
    EXPECT_THAT(std::string(Connect({.address = address, .token = "t"}).message()), HasSubstr("unencrypted"))
        << address;
  }
  EXPECT_TRUE(Connect({.address = "node:1", .tls = TlsOptions{.ca = "c"}, .token = "t"}).ok());
}

TEST(ConnectWithCredentials, RefusesATokenThatIsNoHeader) {
  for (const char* const token : {"a b", "a\nb", "\x80"})
    EXPECT_FALSE(Connect({.address = "unix:/s", .token = token}).ok());
  EXPECT_FALSE(Connect({.address = "node:1", .tls = TlsOptions{.ca = "c", .cert = "x"}}).ok());
}

}  // namespace
}  // namespace keyload::cli
