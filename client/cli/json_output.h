#pragma once

#include <string>

#include "absl/status/status.h"
#include "google/protobuf/message.h"
#include "nlohmann/json.hpp"

namespace keyload::cli {

using Json = nlohmann::ordered_json;

// A message in the shape that --json promises: lowerCamelCase names, bare enum words, 64-bit integers as numbers,
// durations as numbers of seconds ("totalSeconds", "seconds"), timestamps as RFC 3339 text, zeros and empty lists
// printed, unset messages and optional fields null, device maps as one object in registration order.
Json ToJson(const google::protobuf::Message& message);

template <typename Messages>
Json ToJsonList(const Messages& messages) {
  Json list = Json::array();
  for (const auto& message : messages) list.push_back(ToJson(message));
  return list;
}

// {"error": {"code", "reason", "message", "metadata"}}; the code is the gRPC name, "NOT_FOUND".
Json ErrorToJson(const absl::Status& status);

// Adds a member without looking for one of the same name: ordered_json does that by scanning, which is quadratic in a
// device map of a hundred thousand entries. REQUIRES: `object` is an object that has no `name`.
void AddMember(Json& object, std::string name, Json value);

// The text of a document: indented by two, a newline at the end, invalid UTF-8 replaced.
std::string Dump(const Json& document);

}  // namespace keyload::cli
