#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "keyload/v1/model_loader.pb.h"

namespace keyload {

// The details are one ErrorInfo; a RetryInfo too where the metadata has kRetryDelay, and a QuotaFailure for
// DEVICE_OUT_OF_MEMORY. Trailers over 8 KiB break every stream of an HTTP/2 connection, so a status and its details
// stay below 4 KiB together: longer messages and metadata are cut, and marked with "...". Without memory for that the
// code alone, so that a call can always be finished.
grpc::Status ToGrpcStatus(const absl::Status& status) noexcept;

// The end of a call whose client is gone, which nobody reads. Takes no memory.
inline absl::Status ClientIsGone() { return absl::Status(absl::StatusCode::kCancelled, ""); }

// The same for an error inside a message.
v1::LoadError ToLoadError(const absl::Status& status);

}  // namespace keyload
