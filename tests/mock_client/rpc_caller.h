#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "grpcpp/channel.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/status.h"

namespace keyload::mock {

inline constexpr char kServiceName[] = "keyload.v1.ModelLoaderService";

struct RpcResult {
  grpc::Status status;
  std::vector<std::string> messages;  // serialized
};

// Calls any method with any bytes as the request and collects what comes back, one message or a stream. Blocks until
// the call ends or `timeout` has passed. `method` is the full path, "/package.Service/Method".
RpcResult CallMethod(const std::shared_ptr<grpc::Channel>& channel, const std::string& method, std::string_view request,
                     absl::Duration timeout);

std::string Flatten(const grpc::ByteBuffer& buffer);

}  // namespace keyload::mock
