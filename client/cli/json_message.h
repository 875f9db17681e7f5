#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "google/protobuf/message.h"

namespace keyload::cli {

// The binary form of a message of `prototype`'s type from its proto3 JSON. What manifests are made of (objects, lists,
// text, numbers, enum names) is written in one pass without making the message; anything rarer, and every error, goes
// to protobuf's own reader. INVALID_ARGUMENT if the text does not fit. A text with SIMDJSON_PADDING bytes of capacity
// to spare is not copied.
absl::StatusOr<std::string> JsonToBinary(std::string text, const google::protobuf::Message& prototype);

}  // namespace keyload::cli
