#include "server/metrics/metrics_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <vector>

#include "server/base/error.h"
#include "server/base/fd.h"

namespace keyload {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

UniqueFd Connect(const std::string& address) {
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
  UniqueFd fd(socket(AF_INET, SOCK_STREAM, 0));
  EXPECT_EQ(connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof(to)), 0);
  return fd;
}

std::string Get(const std::string& address, const std::string& path) {
  const UniqueFd fd = Connect(address);
  const std::string request = "GET " + path + " HTTP/1.0\r\n\r\n";
  EXPECT_EQ(send(fd.get(), request.data(), request.size(), 0), static_cast<ssize_t>(request.size()));
  std::string answer;
  char buffer[4096];
  for (ssize_t count; (count = recv(fd.get(), buffer, sizeof(buffer), 0)) > 0;) answer.append(buffer, count);
  return answer;
}

TEST(MetricsServer, ServesThePageOnAPortOfItsOwn) {
  Metrics metrics({.methods = {}, .build = {}});
  const auto server = MetricsServer::Start("127.0.0.1:0", metrics);
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_THAT((*server)->address(), MatchesRegex("127\\.0\\.0\\.1:[1-9][0-9]*"));
  metrics.Unloaded(5);
  const std::string answer = Get((*server)->address(), "/metrics");
  EXPECT_THAT(answer, HasSubstr(" 200 OK\r\n"));
  EXPECT_THAT(answer, HasSubstr("\nkeyload_unloads_total 1\n"));
}

TEST(MetricsServer, ServesNothingElse) {
  const Metrics metrics({.methods = {}, .build = {}});
  const auto server = MetricsServer::Start("localhost:0", metrics);
  ASSERT_TRUE(server.ok()) << server.status();
  for (const char* path : {"/", "/etc/passwd", "/../../etc/passwd"}) {
    EXPECT_THAT(Get("127.0.0.1" + (*server)->address().substr(9), path), HasSubstr(" 404 Not Found\r\n")) << path;
  }
}

TEST(MetricsServer, AnAddressInUseIsTold) {
  const Metrics metrics({.methods = {}, .build = {}});
  const auto first = MetricsServer::Start("127.0.0.1:0", metrics);
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = MetricsServer::Start((*first)->address(), metrics);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(ErrorReason(second.status()), Reason::kBadRequest);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr((*first)->address()));
}

TEST(MetricsServer, AnAddressOfNobodyIsTold) {
  const Metrics metrics({.methods = {}, .build = {}});
  for (const char* address : {"192.0.2.1:0", "no.such.host.invalid:0", "nowhere"}) {
    const auto server = MetricsServer::Start(address, metrics);
    ASSERT_FALSE(server.ok()) << address;
    EXPECT_EQ(ErrorReason(server.status()), Reason::kBadRequest);
    EXPECT_THAT(std::string(server.status().message()), HasSubstr(address));
  }
}

TEST(MetricsServer, AnswersBesideClientsThatSendNothing) {
  const Metrics metrics({.methods = {}, .build = {}});
  const auto server = MetricsServer::Start("127.0.0.1:0", metrics);
  ASSERT_TRUE(server.ok()) << server.status();
  std::vector<UniqueFd> clients;
  for (int i = 0; i < 6; ++i) clients.push_back(Connect((*server)->address()));
  EXPECT_THAT(Get((*server)->address(), "/metrics"), HasSubstr(" 200 OK\r\n"));
  char byte = 0;
  const auto is_open = [&byte](const UniqueFd& client) {
    return recv(client.get(), &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN;
  };
  EXPECT_TRUE(std::any_of(clients.begin(), clients.end(), is_open)) << "it came after they were given up";
}

TEST(MetricsServer, EndsWhileClientsSendNothing) {
  const Metrics metrics({.methods = {}, .build = {}});
  auto server = MetricsServer::Start("127.0.0.1:0", metrics);
  ASSERT_TRUE(server.ok()) << server.status();
  std::vector<UniqueFd> clients;
  for (int i = 0; i < 5; ++i) clients.push_back(Connect((*server)->address()));
  server->reset();
}

}  // namespace
}  // namespace keyload
