#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/channel.h"
#include "server/base/fd.h"

namespace keyload::mock {

// Where the daemon is and how to prove who calls; PEM text. Without `tls_ca` there is no TLS, and the token is not
// shown.
struct Server {
  std::string address;  // "unix:PATH" or "HOST:PORT"
  std::string tls_ca;
  std::string tls_cert;
  std::string tls_key;
  std::string token;
};

std::shared_ptr<grpc::Channel> MakeChannel(const Server& server);

// A blocking stream socket connected to "unix:PATH" or "HOST:PORT". Blocks; UNAVAILABLE names the address.
absl::StatusOr<UniqueFd> ConnectSocket(const std::string& address);

// A channel of its own over a socket that the holder can cut without telling gRPC. Over TLS it has no such socket.
struct CuttableChannel {
  std::shared_ptr<grpc::Channel> channel;
  UniqueFd socket;  // a second descriptor of the channel's socket; none over TLS
};
absl::StatusOr<CuttableChannel> ConnectCuttable(const Server& server);

// As if the client's machine had gone: both directions of the connection end at once.
void Cut(const CuttableChannel& connection);

}  // namespace keyload::mock
