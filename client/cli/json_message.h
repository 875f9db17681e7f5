#pragma once

#include <string>

#include "absl/status/status.h"
#include "google/protobuf/message.h"

namespace keyload::cli {

// Fills `message`, which must be empty, from proto3 JSON. What manifests are made of (objects, lists, text, numbers,
// enum names) is read in one pass, several times faster than protobuf's own reader; anything rarer, and every error,
// goes to that one. INVALID_ARGUMENT if the text does not fit.
absl::Status ParseJsonMessage(const std::string& text, google::protobuf::Message& message);

}  // namespace keyload::cli
