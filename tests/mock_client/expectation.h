#pragma once

#include <string>

#include "absl/status/status.h"
#include "google/protobuf/message.h"
#include "nlohmann/json.hpp"

namespace keyload::mock {

// What a scenario expects of a message, as JSON. An object asks for the fields that it names and leaves the others
// open; a list must match element by element. An object may instead hold one operator: {"$at_least": N},
// {"$at_most": N}, {"$contains": "text"} (a string, or an element of a list), {"$length": N}, {"$any_of": [...]}.

// INVALID_ARGUMENT for an operator that does not exist or has the wrong operand.
absl::Status ValidateExpectation(const nlohmann::json& expected, const std::string& where);

// OK, or FAILED_PRECONDITION naming the first field that differs. 64-bit integers may be strings in `actual`, as proto3
// JSON has them.
absl::Status Match(const nlohmann::json& expected, const nlohmann::json& actual, const std::string& where);

// The proto3 JSON form with unset scalars and empty lists included.
nlohmann::json ToJson(const google::protobuf::Message& message);

}  // namespace keyload::mock
