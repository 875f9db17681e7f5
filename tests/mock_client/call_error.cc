#include "tests/mock_client/call_error.h"

#include "absl/status/status.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace keyload::mock {
namespace {

nlohmann::json MakeError(int code, const std::string& message) {
  return {{"code", absl::StatusCodeToString(static_cast<absl::StatusCode>(code))},
          {"reason", ""},
          {"message", message},
          {"metadata", nlohmann::json::object()}};
}

}  // namespace

nlohmann::json ErrorJson(const grpc::Status& status) {
  nlohmann::json error = MakeError(status.error_code(), status.error_message());
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return error;
  for (const google::protobuf::Any& detail : details.details()) {
    google::rpc::ErrorInfo info;
    if (!detail.UnpackTo(&info)) continue;
    error["reason"] = info.reason();
    for (const auto& [name, value] : info.metadata()) error["metadata"][name] = value;
  }
  return error;
}

nlohmann::json ErrorJson(const v1::LoadError& error) {
  nlohmann::json result = MakeError(error.code(), error.message());
  result["reason"] = error.reason();
  for (const auto& [name, value] : error.metadata()) result["metadata"][name] = value;
  return result;
}

}  // namespace keyload::mock
