#include "tests/mock_client/connection.h"

#include <fcntl.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/create_channel_posix.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"

namespace keyload::mock {
namespace {

absl::Status Unavailable(const std::string& address, const char* why) {
  return absl::UnavailableError(absl::StrCat("cannot connect to ", address, ": ", why));
}

absl::StatusOr<UniqueFd> ConnectUnix(const std::string& address, const std::string& path) {
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  if (path.size() >= sizeof name.sun_path) return Unavailable(address, "the path is too long");
  std::memcpy(name.sun_path, path.data(), path.size());
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd || ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name) != 0) {
    return Unavailable(address, std::strerror(errno));
  }
  return fd;
}

absl::StatusOr<UniqueFd> ConnectTcp(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return Unavailable(address, "neither unix:PATH nor HOST:PORT");
  std::string host = address.substr(0, colon);
  if (host.size() > 1 && host.front() == '[') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = ::getaddrinfo(host.c_str(), address.c_str() + colon + 1, &hints, &found); error != 0) {
    return Unavailable(address, ::gai_strerror(error));
  }
  UniqueFd fd(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const bool connected = fd && ::connect(fd.get(), found->ai_addr, found->ai_addrlen) == 0;
  const int error = errno;
  ::freeaddrinfo(found);
  if (!connected) return Unavailable(address, std::strerror(error));
  return fd;
}

std::shared_ptr<grpc::ChannelCredentials> Credentials(const Server& server) {
  if (server.tls_ca.empty()) return grpc::InsecureChannelCredentials();
  auto tls = grpc::SslCredentials(
      {.pem_root_certs = server.tls_ca, .pem_private_key = server.tls_key, .pem_cert_chain = server.tls_cert});
  if (server.token.empty()) return tls;
  return grpc::CompositeChannelCredentials(tls, grpc::AccessTokenCredentials(server.token));
}

// As the client library, which passes the proxies of the environment by.
grpc::ChannelArguments Arguments() {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return arguments;
}

}  // namespace

absl::StatusOr<UniqueFd> ConnectSocket(const std::string& address) {
  constexpr std::string_view kUnix = "unix:";
  return address.starts_with(kUnix) ? ConnectUnix(address, address.substr(kUnix.size())) : ConnectTcp(address);
}

std::shared_ptr<grpc::Channel> MakeChannel(const Server& server) {
  return grpc::CreateCustomChannel(server.address, Credentials(server), Arguments());
}

absl::StatusOr<CuttableChannel> ConnectCuttable(const Server& server) {
  // A window that does not grow: a client that stops reading then holds the daemon's writes back soon.
  grpc::ChannelArguments arguments = Arguments();
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  if (!server.tls_ca.empty()) {  // gRPC takes a connected socket only for what goes unencrypted
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return CuttableChannel{.channel = grpc::CreateCustomChannel(server.address, Credentials(server), arguments),
                           .socket = UniqueFd()};
  }
  absl::StatusOr<UniqueFd> socket = ConnectSocket(server.address);
  if (!socket.ok()) return socket.status();
  const int owned_by_grpc = ::fcntl(socket->get(), F_DUPFD_CLOEXEC, 0);
  if (owned_by_grpc < 0) return Unavailable(server.address, std::strerror(errno));
  ::fcntl(owned_by_grpc, F_SETFL, ::fcntl(owned_by_grpc, F_GETFL) | O_NONBLOCK);
  return CuttableChannel{.channel = grpc::CreateCustomInsecureChannelFromFd("localhost", owned_by_grpc, arguments),
                         .socket = *std::move(socket)};
}

void Cut(const CuttableChannel& connection) { ::shutdown(connection.socket.get(), SHUT_RDWR); }

}  // namespace keyload::mock
