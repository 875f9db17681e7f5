#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "nlohmann/json.hpp"
#include "tests/mock_client/rpc_caller.h"

namespace keyload::mock {

// A call of the contract by its name, "LoadModel"; null if there is none.
const google::protobuf::MethodDescriptor* FindMethod(const std::string& name);
// "/package.Service/Method"
std::string PathOf(const google::protobuf::MethodDescriptor& method);

std::unique_ptr<google::protobuf::Message> NewMessage(const google::protobuf::Descriptor* type);
// A serialized message as JSON; INTERNAL if it does not parse.
absl::StatusOr<nlohmann::json> MessageJson(const std::string& bytes, const google::protobuf::Descriptor* type);

// {"error": {...}} or {"response": {...}}; the messages of a response stream count as one, merged.
absl::StatusOr<nlohmann::json> ResultJson(const RpcResult& result, const google::protobuf::Descriptor* type);

}  // namespace keyload::mock
