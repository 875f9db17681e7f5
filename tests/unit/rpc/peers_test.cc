// What one peer can use up, and clients that are gone.

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <memory>

#include "server/base/digest.h"
#include "server/base/error.h"
#include "server/base/fd.h"
#include "server/base/strings.h"
#include "tests/unit/rpc/loader_server.h"

namespace keyload {
namespace {

UniqueFd ConnectRaw(const std::string& path) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = {}};
  memcpy(name.sun_path, path.c_str(), path.size() + 1);
  EXPECT_EQ(connect(fd.get(), reinterpret_cast<const sockaddr*>(&name), sizeof(name)), 0);
  return fd;
}

// True when the other side hangs up before `limit`; what it sends is taken and not answered.
bool HangsUp(const UniqueFd& fd, std::chrono::seconds limit) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (std::chrono::steady_clock::now() < end) {
    pollfd wait = {.fd = fd.get(), .events = POLLIN, .revents = 0};
    if (poll(&wait, 1, 100) == 0) continue;
    char bytes[4096];
    if (read(fd.get(), bytes, sizeof(bytes)) <= 0) return true;
  }
  return false;
}

TEST(Peers, AClientThatDoesNotAnswerPingsIsGivenUp) {
  LoaderServer node;
  const std::string path = node.socket() + "2";
  const auto server = RpcServer::Start({.listen = {"unix:" + path},
                                        .rpc = node.rpc(),
                                        .keepalive_time = std::chrono::milliseconds(200),
                                        .keepalive_timeout = std::chrono::milliseconds(200)});
  ASSERT_TRUE(server.ok()) << server.status();
  const UniqueFd client = ConnectRaw(path);
  const std::string hello = std::string("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") + std::string("\0\0\0\4\0\0\0\0\0", 9);
  ASSERT_EQ(write(client.get(), hello.data(), hello.size()), static_cast<ssize_t>(hello.size()));
  EXPECT_TRUE(HangsUp(client, std::chrono::seconds(30)));
}

TEST(Peers, AConnectionWithoutCallsIsClosed) {
  LoaderServer node;
  const std::string address = "unix:" + node.socket() + "2";
  const auto server =
      RpcServer::Start({.listen = {address}, .rpc = node.rpc(), .idle_limit = std::chrono::milliseconds(200)});
  ASSERT_TRUE(server.ok()) << server.status();
  const auto channel = grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
  TestContext context;
  v1::GetServerInfoResponse info;
  const auto stub = v1::ModelLoaderService::NewStub(channel);
  ASSERT_TRUE(stub->GetServerInfo(&context, {}, &info).ok());
  const auto deadline = std::chrono::system_clock::now() + std::chrono::seconds(30);
  EXPECT_TRUE(channel->WaitForStateChange(GRPC_CHANNEL_READY, deadline)) << "no GOAWAY came";
  TestContext again;
  EXPECT_TRUE(stub->GetServerInfo(&again, {}, &info).ok()) << "clients connect again by themselves";
}

TEST(Peers, ACallAboveTheLimitOfItsCallerIsRefused) {
  LoaderServer node;
  const std::string address = "unix:" + node.socket() + "2";
  const auto server = RpcServer::Start({.listen = {address}, .rpc = node.rpc(), .calls = {.total = 10, .per_peer = 1}});
  ASSERT_TRUE(server.ok()) << server.status();
  const auto stub = v1::ModelLoaderService::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  TestContext context;
  const auto open = stub->WatchModels(&context, {});
  v1::WatchModelsResponse event;
  ASSERT_TRUE(open->Read(&event));
  TestContext second;
  v1::GetServerInfoResponse info;
  const grpc::Status refused = stub->GetServerInfo(&second, {}, &info);
  EXPECT_EQ(InfoOf(refused).reason(), "LOAD_QUEUE_FULL");
  EXPECT_THAT(refused.error_message(), testing::HasSubstr("1 calls of this client"));
  context.TryCancel();
  while (open->Read(&event)) {
  }
  grpc::Status status;
  do {
    TestContext third;
    status = stub->GetServerInfo(&third, {}, &info);
  } while (status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST(Peers, ConnectionsHaveEqualSharesOfHalfOfTheDescriptors) {
  const RpcServer::Options options;
  const ConnectionTable::Limits few = RpcServer::ConnectionLimits(options, 256, 2);
  EXPECT_EQ(few.total, 64u);
  EXPECT_EQ(few.per_peer, 32u);
  const ConnectionTable::Limits many = RpcServer::ConnectionLimits(options, 1 << 20, 3);
  EXPECT_EQ(many.total, kDefaultConnections);
  EXPECT_EQ(many.per_peer, kDefaultConnectionsPerPeer);
}

// Whether the call's end or the end of its messages is seen first is a race that the server must not lose.
TEST(Peers, AnUploadThatIsCancelledIsNeverKept) {
  LoaderServer server;
  for (int i = 0; i < 200; ++i) {
    const std::string document = StrCat("key.", i);
    TestContext context;
    v1::UploadDocumentResponse response;
    const auto writer = server.stub().UploadDocument(&context, &response);
    v1::UploadDocumentRequest chunk;
    chunk.set_kind(v1::UploadDocumentRequest::KIND_KEY_LIST);
    chunk.set_data(document);
    writer->Write(chunk);
    context.TryCancel();
    EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::CANCELLED);
    while (server.server().open_calls() > 0) std::this_thread::yield();
    EXPECT_FALSE(server.node().documents().FindKeyList(Sha256Digest(document)).ok()) << i;
  }
}

}  // namespace
}  // namespace keyload
