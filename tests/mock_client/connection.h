#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/channel.h"
#include "server/base/fd.h"

namespace keyload::mock {

// A blocking stream socket connected to "unix:PATH" or "HOST:PORT". Blocks; UNAVAILABLE names the address.
absl::StatusOr<UniqueFd> ConnectSocket(const std::string& address);

// A channel of its own over a socket that the holder can cut without telling gRPC.
struct CuttableChannel {
  std::shared_ptr<grpc::Channel> channel;
  UniqueFd socket;  // a second descriptor of the channel's socket
};
absl::StatusOr<CuttableChannel> ConnectCuttable(const std::string& address);

// As if the client's machine had gone: both directions of the connection end at once.
void Cut(const CuttableChannel& connection);

}  // namespace keyload::mock
