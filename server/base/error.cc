#include "server/base/error.h"

#include <cerrno>
#include <cstring>
#include <iterator>

#include "absl/strings/cord.h"
#include "absl/strings/str_split.h"

#include "server/base/retry.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

struct ReasonEntry {
  Reason reason;
  std::string_view name;
  absl::StatusCode code;
};

constexpr ReasonEntry kReasons[] = {
    {Reason::kBadRequest, "BAD_REQUEST", absl::StatusCode::kInvalidArgument},
    {Reason::kFieldNotSupported, "FIELD_NOT_SUPPORTED", absl::StatusCode::kUnimplemented},
    {Reason::kMethodNotSupported, "METHOD_NOT_SUPPORTED", absl::StatusCode::kUnimplemented},
    {Reason::kTokenMissing, "TOKEN_MISSING", absl::StatusCode::kUnauthenticated},
    {Reason::kTokenInvalid, "TOKEN_INVALID", absl::StatusCode::kUnauthenticated},
    {Reason::kRoleInsufficient, "ROLE_INSUFFICIENT", absl::StatusCode::kPermissionDenied},
    {Reason::kPeerNotAllowed, "PEER_NOT_ALLOWED", absl::StatusCode::kPermissionDenied},
    {Reason::kPathNotAllowed, "PATH_NOT_ALLOWED", absl::StatusCode::kPermissionDenied},
    {Reason::kPathNotReadable, "PATH_NOT_READABLE", absl::StatusCode::kPermissionDenied},
    {Reason::kCheckpointNotFound, "CHECKPOINT_NOT_FOUND", absl::StatusCode::kNotFound},
    {Reason::kCheckpointAmbiguous, "CHECKPOINT_AMBIGUOUS", absl::StatusCode::kInvalidArgument},
    {Reason::kCheckpointCorrupt, "CHECKPOINT_CORRUPT", absl::StatusCode::kDataLoss},
    {Reason::kCheckpointTruncated, "CHECKPOINT_TRUNCATED", absl::StatusCode::kDataLoss},
    {Reason::kCheckpointChanged, "CHECKPOINT_CHANGED", absl::StatusCode::kFailedPrecondition},
    {Reason::kFormatNotSupported, "FORMAT_NOT_SUPPORTED", absl::StatusCode::kUnimplemented},
    {Reason::kKeyConflict, "KEY_CONFLICT", absl::StatusCode::kInvalidArgument},
    {Reason::kManifestInvalid, "MANIFEST_INVALID", absl::StatusCode::kInvalidArgument},
    {Reason::kConfigInvalid, "CONFIG_INVALID", absl::StatusCode::kInvalidArgument},
    {Reason::kConfigNotSupported, "CONFIG_NOT_SUPPORTED", absl::StatusCode::kUnimplemented},
    {Reason::kTemplateInvalid, "TEMPLATE_INVALID", absl::StatusCode::kInvalidArgument},
    {Reason::kPatternInvalid, "PATTERN_INVALID", absl::StatusCode::kInvalidArgument},
    {Reason::kDocumentNotFound, "DOCUMENT_NOT_FOUND", absl::StatusCode::kNotFound},
    {Reason::kDocumentTooLarge, "DOCUMENT_TOO_LARGE", absl::StatusCode::kResourceExhausted},
    {Reason::kDeviceUnknown, "DEVICE_UNKNOWN", absl::StatusCode::kInvalidArgument},
    {Reason::kDeviceMapInvalid, "DEVICE_MAP_INVALID", absl::StatusCode::kInvalidArgument},
    {Reason::kDeviceMapIncomplete, "DEVICE_MAP_INCOMPLETE", absl::StatusCode::kInvalidArgument},
    {Reason::kDeviceMapNotFound, "DEVICE_MAP_NOT_FOUND", absl::StatusCode::kNotFound},
    {Reason::kDeviceMapChanged, "DEVICE_MAP_CHANGED", absl::StatusCode::kAborted},
    {Reason::kDeviceMapsFull, "DEVICE_MAPS_FULL", absl::StatusCode::kResourceExhausted},
    {Reason::kDeviceOutOfMemory, "DEVICE_OUT_OF_MEMORY", absl::StatusCode::kResourceExhausted},
    {Reason::kDtypeNotSupported, "DTYPE_NOT_SUPPORTED", absl::StatusCode::kInvalidArgument},
    {Reason::kModelNotFound, "MODEL_NOT_FOUND", absl::StatusCode::kNotFound},
    {Reason::kModelExists, "MODEL_EXISTS", absl::StatusCode::kAlreadyExists},
    {Reason::kModelBusy, "MODEL_BUSY", absl::StatusCode::kAborted},
    {Reason::kLoadNotFound, "LOAD_NOT_FOUND", absl::StatusCode::kNotFound},
    {Reason::kRequestIdReused, "REQUEST_ID_REUSED", absl::StatusCode::kAlreadyExists},
    {Reason::kKeyNotFound, "KEY_NOT_FOUND", absl::StatusCode::kNotFound},
    {Reason::kKeyNotResident, "KEY_NOT_RESIDENT", absl::StatusCode::kFailedPrecondition},
    {Reason::kGenerationMismatch, "GENERATION_MISMATCH", absl::StatusCode::kFailedPrecondition},
    {Reason::kLoadQueueFull, "LOAD_QUEUE_FULL", absl::StatusCode::kResourceExhausted},
    {Reason::kMemoryExhausted, "MEMORY_EXHAUSTED", absl::StatusCode::kResourceExhausted},
    {Reason::kLoadCancelled, "LOAD_CANCELLED", absl::StatusCode::kCancelled},
    {Reason::kDeadlineExceeded, "DEADLINE_EXCEEDED", absl::StatusCode::kDeadlineExceeded},
    {Reason::kIoError, "IO_ERROR", absl::StatusCode::kUnavailable},
    {Reason::kDraining, "DRAINING", absl::StatusCode::kUnavailable},
    {Reason::kInternal, "INTERNAL", absl::StatusCode::kInternal},
};
static_assert(std::size(kReasons) == static_cast<size_t>(kLastReason) + 1);

constexpr std::string_view kReasonPayload = "keyload.v1/reason";
constexpr std::string_view kMetadataPayload = "keyload.v1/metadata/";

const ReasonEntry& Entry(Reason reason) { return kReasons[static_cast<size_t>(reason)]; }

}  // namespace

std::string_view ReasonName(Reason reason) { return Entry(reason).name; }
absl::StatusCode ReasonCode(Reason reason) { return Entry(reason).code; }

std::optional<Reason> FindReason(std::string_view name) {
  for (const ReasonEntry& entry : kReasons) {
    if (name == entry.name) return entry.reason;
  }
  return std::nullopt;
}

absl::Status MakeError(Reason reason, std::string_view message, const ErrorMetadata& metadata) {
  absl::Status status(ReasonCode(reason), ToAbsl(message));
  status.SetPayload(ToAbsl(kReasonPayload), absl::Cord(ToAbsl(ReasonName(reason))));
  for (const auto& [name, value] : metadata) status.SetPayload(StrCat(kMetadataPayload, name), absl::Cord(value));
  return status;
}

Reason ErrorReason(const absl::Status& status) {
  const auto payload = status.GetPayload(ToAbsl(kReasonPayload));
  return payload ? FindReason(std::string(*payload)).value_or(Reason::kInternal) : Reason::kInternal;
}

ErrorMetadata ErrorDetails(const absl::Status& status) {
  ErrorMetadata metadata;
  status.ForEachPayload([&](absl::string_view type_url, const absl::Cord& value) {
    const std::string_view url = ToStd(type_url);
    if (url.starts_with(kMetadataPayload)) metadata.emplace(url.substr(kMetadataPayload.size()), std::string(value));
  });
  return metadata;
}

absl::Status TooManyWaiting() { return TooManyWaiting(absl::Seconds(1)); }

absl::Status TooManyWaiting(absl::Duration retry_delay) {
  const int64_t seconds = absl::ToInt64Seconds(absl::Ceil(retry_delay, absl::Seconds(1)));
  return MakeError(Reason::kLoadQueueFull, "too many requests are waiting; try again later",
                   {{std::string(kRetryDelay), StrCat(seconds)}});
}

absl::Status Draining() {
  constexpr int kSecondsToRestart = 5;
  return MakeError(Reason::kDraining, "the server is shutting down",
                   {{std::string(kRetryDelay), StrCat(kSecondsToRestart)}});
}

absl::Status Annotate(const absl::Status& status, std::string_view context, const ErrorMetadata& metadata) {
  if (status.ok()) return status;
  absl::Status annotated(status.code(), StrCat(context, ": ", status.message()));
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& value) { annotated.SetPayload(url, value); });
  for (const auto& [name, value] : metadata) {
    annotated.SetPayload(StrCat(kMetadataPayload, name), absl::Cord(value));
  }
  return annotated;
}

namespace {

// What the same call would say again is no IO_ERROR, which clients repeat by themselves.
Reason ErrnoReason(int error) {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
    case ELOOP:         // a link that leads to itself
    case ENAMETOOLONG:  // no file has such a name
      return Reason::kCheckpointNotFound;
    case EACCES:
    case EPERM:
      return Reason::kPathNotReadable;
    case EIO:
    case EBADMSG:  // a checksum of the file system does not fit
    case EUCLEAN:  // its structure is broken
    case ENODATA:  // a sector cannot be read
    case EILSEQ:   // a checksum of the disk does not fit
      return Reason::kCheckpointCorrupt;
    default:
      return Reason::kIoError;
  }
}

}  // namespace

absl::Status ErrnoToStatus(int error, std::string_view operation, std::string_view path) {
  return MakeError(ErrnoReason(error), StrCat(path, ": ", operation, ": ", std::strerror(error)),
                   {{"file", std::string(path)}});
}

}  // namespace keyload
