#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "grpcpp/channel.h"
#include "keyload/client.h"

namespace keyload::client_internal {

// What Client::Connect says of its options.
absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const ClientOptions& options);

}  // namespace keyload::client_internal
