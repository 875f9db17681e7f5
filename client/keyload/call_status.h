#pragma once

#include "absl/status/status.h"
#include "grpcpp/support/status.h"
#include "keyload/v1/model_loader.pb.h"

namespace keyload::client_internal {

// The status of a finished call with the server's ErrorInfo and RetryInfo attached, where it sent them. Thread-safe.
absl::Status FromGrpc(const grpc::Status& status);

// The error that a load ended with, in the same shape. An error with code OK becomes INTERNAL.
absl::Status FromLoadError(const v1::LoadError& error);

}  // namespace keyload::client_internal
