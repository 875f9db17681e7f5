#include "server/rpc/listener.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <condition_variable>
#include <mutex>

#include "server/base/error.h"
#include "tests/support/checkpoint_builder.h"

namespace keyload {
namespace {

// Keeps what was accepted, and tells how much that is.
class Accepted {
 public:
  Listener::OnConnection Taker() {
    return [this](UniqueFd connection) {
      const std::lock_guard lock(mutex_);
      connections_.push_back(std::move(connection));
      changed_.notify_all();
    };
  }
  bool WaitFor(size_t count, std::chrono::seconds limit = std::chrono::seconds(30)) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, limit, [&] { return connections_.size() >= count; });
  }
  void CloseAll() {
    const std::lock_guard lock(mutex_);
    connections_.clear();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<UniqueFd> connections_;
};

UniqueFd ConnectToPort(const std::string& address) {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return fd;
  sockaddr_in name = {.sin_family = AF_INET,
                      .sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1)))),
                      .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&name), sizeof(name)) != 0) return UniqueFd();
  return fd;
}

TEST(Listener, AcceptsOverTcpAtThePortThatItNames) {
  Accepted accepted;  // outlives the listener's thread
  const auto listener = Listener::BindTcp("localhost:0");
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_NE((*listener)->address(), "localhost:0");
  (*listener)->Start(accepted.Taker());
  const UniqueFd client = ConnectToPort((*listener)->address());
  ASSERT_TRUE(client);
  EXPECT_TRUE(accepted.WaitFor(1));
}

TEST(Listener, NamesAnAddressThatCannotBeBound) {
  const auto first = Listener::BindTcp("127.0.0.1:0");
  ASSERT_TRUE(first.ok());
  for (const std::string& address :
       {(*first)->address(), std::string("192.0.2.1:0"), std::string("no.such.host.invalid:1")}) {
    const auto second = Listener::BindTcp(address);
    EXPECT_EQ(ErrorReason(second.status()), Reason::kBadRequest);
    EXPECT_THAT(std::string(second.status().message()), testing::HasSubstr(address));
  }
}

TEST(Listener, AUnixSocketHasItsModeAndGoesWithTheListener) {
  TempDir dir;
  const std::string path = dir.File("s");
  {
    const auto listener = Listener::BindUnix(path, 0600);
    ASSERT_TRUE(listener.ok()) << listener.status();
    struct stat info = {};
    ASSERT_EQ(stat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, 0600u);
    EXPECT_FALSE(Listener::BindUnix(path, 0600).ok());
  }
  struct stat info = {};
  EXPECT_NE(stat(path.c_str(), &info), 0);
}

TEST(Listener, GoesOnWhenDescriptorsAreFreeAgain) {
  Accepted accepted;
  const auto listener = Listener::BindTcp("127.0.0.1:0");
  ASSERT_TRUE(listener.ok());
  (*listener)->Start(accepted.Taker());
  rlimit before = {};
  getrlimit(RLIMIT_NOFILE, &before);
  rlimit lowered = {.rlim_cur = 128, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &lowered), 0);
  {
    std::vector<UniqueFd> clients;
    while (UniqueFd client = ConnectToPort((*listener)->address())) clients.push_back(std::move(client));
    EXPECT_EQ(errno, EMFILE);
  }
  accepted.CloseAll();
  setrlimit(RLIMIT_NOFILE, &before);
  const UniqueFd client = ConnectToPort((*listener)->address());
  ASSERT_TRUE(client);
  EXPECT_TRUE(accepted.WaitFor(1));
}

}  // namespace
}  // namespace keyload
