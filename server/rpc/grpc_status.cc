#include "server/rpc/grpc_status.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/base/error.h"
#include "server/base/retry.h"
#include "server/base/strings.h"
#include "server/base/utf8.h"

namespace keyload {
namespace {

constexpr size_t kMaxMessage = 1200;
constexpr size_t kMaxMetadataValue = 256;
constexpr size_t kMaxAbsent = 512;  // the names of files to fetch are of use only if they are whole
constexpr size_t kMaxMetadata = 1000;
constexpr size_t kMaxNumber = 32;     // of a number or a device's name in the standard details
constexpr size_t kEntryOverhead = 8;  // tags and lengths of one entry, as serialized
constexpr std::string_view kDomain = "keyload";

std::string Cut(std::string_view text, size_t limit) {
  std::string out = ToUtf8(text);
  if (out.size() <= limit) return out;
  size_t end = limit - 3;
  while (end > 0 && (static_cast<unsigned char>(out[end]) & 0xc0) == 0x80) --end;
  return out.substr(0, end) + "...";
}

ErrorMetadata CutMetadata(const absl::Status& status) {
  ErrorMetadata kept;
  size_t total = 0;
  for (const auto& [name, value] : ErrorDetails(status)) {
    std::string cut = Cut(value, name == "absent" ? kMaxAbsent : kMaxMetadataValue);
    total += name.size() + cut.size() + kEntryOverhead;
    if (total > kMaxMetadata) break;
    kept.emplace(name, std::move(cut));
  }
  return kept;
}

// What a retry has to wait for, and what a device lacks, in the standard's words beside ours.
void AddStandardDetails(const absl::Status& status, google::rpc::Status& details) {
  const ErrorMetadata metadata = ErrorDetails(status);
  const auto value = [&](std::string_view name) {
    const auto it = metadata.find(std::string(name));
    return it == metadata.end() ? std::string() : Cut(it->second, kMaxNumber);
  };
  int64_t seconds = 0;
  if (absl::SimpleAtoi(value(kRetryDelay), &seconds)) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(seconds);
    details.add_details()->PackFrom(retry);
  }
  if (ErrorReason(status) == Reason::kDeviceOutOfMemory) {
    google::rpc::QuotaFailure quota;
    google::rpc::QuotaFailure::Violation& violation = *quota.add_violations();
    violation.set_subject(value("device"));
    const std::string requested = value("requested_bytes");
    violation.set_description(requested.empty() ? "memory"
                                                : StrCat(requested, " bytes asked for, ", value("free_bytes"), " of ",
                                                         value("capacity_bytes"), " bytes free"));
    details.add_details()->PackFrom(quota);
  }
}

grpc::Status WithDetails(const absl::Status& status) {
  google::rpc::ErrorInfo info;
  info.set_reason(std::string(ReasonName(ErrorReason(status))));
  info.set_domain(std::string(kDomain));
  for (auto& [name, value] : CutMetadata(status)) (*info.mutable_metadata())[name] = value;
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(Cut(ToStd(status.message()), kMaxMessage));
  details.add_details()->PackFrom(info);
  AddStandardDetails(status, details);
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), details.message(), details.SerializeAsString());
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) noexcept {
  if (status.ok()) return grpc::Status();
  try {
    return WithDetails(status);
  } catch (...) {
    return grpc::Status(static_cast<grpc::StatusCode>(status.code()), "");
  }
}

v1::LoadError ToLoadError(const absl::Status& status) {
  v1::LoadError error;
  error.set_code(static_cast<int>(status.code()));
  error.set_reason(std::string(ReasonName(ErrorReason(status))));
  error.set_message(Cut(ToStd(status.message()), kMaxMessage));
  for (auto& [name, value] : CutMetadata(status)) (*error.mutable_metadata())[name] = value;
  return error;
}

}  // namespace keyload
