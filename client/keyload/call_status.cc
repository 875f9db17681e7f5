#include "client/keyload/call_status.h"

#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "keyload/client.h"

namespace keyload {
namespace {

constexpr char kErrorInfoUrl[] = "type.googleapis.com/google.rpc.ErrorInfo";
constexpr char kRetryInfoUrl[] = "type.googleapis.com/google.rpc.RetryInfo";
constexpr char kLoadErrorDomain[] = "keyload";
constexpr char kRetryDelay[] = "retry_delay_seconds";

}  // namespace

ErrorInfo GetErrorInfo(const absl::Status& status) {
  ErrorInfo info;
  auto payload = status.GetPayload(kErrorInfoUrl);
  google::rpc::ErrorInfo wire;
  if (!payload || !wire.ParseFromString(std::string(*payload))) return info;
  info.reason = wire.reason();
  info.domain = wire.domain();
  info.metadata.insert(wire.metadata().begin(), wire.metadata().end());
  return info;
}

std::optional<absl::Duration> GetRetryDelay(const absl::Status& status) {
  google::rpc::RetryInfo wire;
  if (const auto payload = status.GetPayload(kRetryInfoUrl); payload && wire.ParseFromString(std::string(*payload))) {
    return absl::Seconds(wire.retry_delay().seconds()) + absl::Nanoseconds(wire.retry_delay().nanos());
  }
  const ErrorInfo info = GetErrorInfo(status);
  int64_t seconds = 0;
  const auto it = info.metadata.find(kRetryDelay);
  if (it == info.metadata.end() || !absl::SimpleAtoi(it->second, &seconds)) return std::nullopt;
  return absl::Seconds(seconds);
}

absl::Status WithErrorInfo(absl::Status status, const ErrorInfo& info) {
  google::rpc::ErrorInfo wire;
  wire.set_reason(info.reason);
  wire.set_domain(info.domain);
  wire.mutable_metadata()->insert(info.metadata.begin(), info.metadata.end());
  status.SetPayload(kErrorInfoUrl, absl::Cord(wire.SerializeAsString()));
  return status;
}

namespace client_internal {

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return result;
  for (const google::protobuf::Any& detail : details.details()) {
    if (detail.Is<google::rpc::ErrorInfo>()) result.SetPayload(kErrorInfoUrl, absl::Cord(detail.value()));
    if (detail.Is<google::rpc::RetryInfo>()) result.SetPayload(kRetryInfoUrl, absl::Cord(detail.value()));
  }
  return result;
}

absl::Status FromLoadError(const v1::LoadError& error) {
  absl::StatusCode code = error.code() == 0 ? absl::StatusCode::kInternal : static_cast<absl::StatusCode>(error.code());
  return WithErrorInfo(absl::Status(code, error.message()),
                       ErrorInfo{.reason = error.reason(),
                                 .domain = kLoadErrorDomain,
                                 .metadata = {error.metadata().begin(), error.metadata().end()}});
}

}  // namespace client_internal
}  // namespace keyload
