#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/support/byte_buffer.h>

#include <string_view>

#include "absl/status/status.h"

namespace keyload {

// The contract says that what a server does not support is refused by name and never ignored. protobuf keeps fields
// that it does not know aside and says nothing, so every request is walked for them.

// FIELD_NOT_SUPPORTED with the number of the first unknown field and the message that it stands in, at any depth.
absl::Status CheckKnownFields(const google::protobuf::Message& request);

// BAD_REQUEST: bytes that are no `message`, or have a string that is not UTF-8.
absl::Status MalformedRequest(std::string_view message);

// Parses one message of a stream, and empties `bytes`. BAD_REQUEST as above.
absl::Status ParseRequest(grpc::ByteBuffer& bytes, google::protobuf::Message& request);

}  // namespace keyload
