#include "server/rpc/grpc_status.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/base/error.h"
#include "server/base/retry.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

constexpr size_t kMaxMessage = 1200;
constexpr size_t kMaxMetadataValue = 256;
constexpr size_t kMaxMetadata = 1000;
constexpr size_t kMaxNumber = 32;     // of a number or a device's name in the standard details
constexpr size_t kEntryOverhead = 8;  // tags and lengths of one entry, as serialized
constexpr std::string_view kDomain = "keyload";

// Length of the UTF-8 sequence that starts `text`, 0 if none does.
size_t Utf8Length(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const auto continues = [&](size_t i) { return (byte(i) & 0xc0) == 0x80; };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf && continues(1)) return 2;
  if ((first & 0xf0) == 0xe0 && continues(1) && continues(2)) {
    const unsigned code = (first & 0x0f) << 12 | (byte(1) & 0x3f) << 6;
    return code >= 0x800 && (code < 0xd800 || code > 0xdfff) ? 3 : 0;
  }
  if (first >= 0xf0 && first <= 0xf4 && continues(1) && continues(2) && continues(3)) {
    const unsigned code = (first & 0x07) << 18 | (byte(1) & 0x3f) << 12;
    return code >= 0x10000 && code <= 0x10f000 ? 4 : 0;
  }
  return 0;
}

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
    std::string cut = Cut(value, kMaxMetadataValue);
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

}  // namespace

std::string ToUtf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const size_t length = Utf8Length(text);
    out.append(length > 0 ? text.substr(0, length) : std::string_view("\xef\xbf\xbd"));
    text.remove_prefix(std::max<size_t>(length, 1));
  }
  return out;
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
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

v1::LoadError ToLoadError(const absl::Status& status) {
  v1::LoadError error;
  error.set_code(static_cast<int>(status.code()));
  error.set_reason(std::string(ReasonName(ErrorReason(status))));
  error.set_message(Cut(ToStd(status.message()), kMaxMessage));
  for (auto& [name, value] : CutMetadata(status)) (*error.mutable_metadata())[name] = value;
  return error;
}

}  // namespace keyload
