#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace keyload {

// Why a call failed, as clients see it (google.rpc.ErrorInfo.reason). A reason has exactly one status code;
// docs/errors.md lists every one with what a caller does about it.
enum class Reason {
  kBadRequest,
  kFieldNotSupported,
  kMethodNotSupported,
  kTokenMissing,
  kTokenInvalid,
  kRoleInsufficient,
  kPeerNotAllowed,
  kPathNotAllowed,
  kPathNotReadable,
  kCheckpointNotFound,
  kCheckpointAmbiguous,
  kCheckpointCorrupt,
  kCheckpointTruncated,
  kCheckpointChanged,
  kFormatNotSupported,
  kKeyConflict,
  kManifestInvalid,
  kConfigInvalid,
  kConfigNotSupported,
  kTemplateInvalid,
  kPatternInvalid,
  kDocumentNotFound,
  kDocumentTooLarge,
  kDeviceUnknown,
  kDeviceMapInvalid,
  kDeviceMapIncomplete,
  kDeviceMapNotFound,
  kDeviceMapChanged,
  kDeviceMapsFull,
  kDeviceOutOfMemory,
  kDtypeNotSupported,
  kModelNotFound,
  kModelExists,
  kModelBusy,
  kLoadNotFound,
  kRequestIdReused,
  kKeyNotFound,
  kKeyNotResident,
  kGenerationMismatch,
  kLoadQueueFull,
  kMemoryExhausted,
  kLoadCancelled,
  kDeadlineExceeded,
  kIoError,
  kDraining,
  kInternal,
};

// The last reason, for tests that walk all of them.
inline constexpr Reason kLastReason = Reason::kInternal;

// How much of a name from outside a message repeats.
inline constexpr size_t kNameInMessage = 200;

using ErrorMetadata = std::map<std::string, std::string>;

std::string_view ReasonName(Reason reason);  // "PATH_NOT_ALLOWED"
std::optional<Reason> FindReason(std::string_view name);
absl::StatusCode ReasonCode(Reason reason);  // kPermissionDenied

// A typed error. `message` names the subject (file, shard, key, offset); `metadata` repeats the dynamic values by name.
absl::Status MakeError(Reason reason, std::string_view message, const ErrorMetadata& metadata = {});

// What MakeError put into `status`; kInternal and no metadata for a status that was made elsewhere.
Reason ErrorReason(const absl::Status& status);
ErrorMetadata ErrorDetails(const absl::Status& status);

// LOAD_QUEUE_FULL: an executor takes nothing more.
absl::Status TooManyWaiting();

// `status` with `context` before its message and `metadata` added to its own; OK stays OK.
absl::Status Annotate(const absl::Status& status, std::string_view context, const ErrorMetadata& metadata = {});

// Translates errno of a failed call on `path`: ENOENT, ENOTDIR, ELOOP and ENAMETOOLONG to CHECKPOINT_NOT_FOUND, EACCES
// and EPERM to PATH_NOT_READABLE, EIO and others that mean damage to CHECKPOINT_CORRUPT, anything else to IO_ERROR,
// which may pass. `operation` is the call's name.
absl::Status ErrnoToStatus(int error, std::string_view operation, std::string_view path);

}  // namespace keyload

#define KEYLOAD_RETURN_IF_ERROR(expression)                                                      \
  do {                                                                                           \
    if (absl::Status keyload_status = (expression); !keyload_status.ok()) return keyload_status; \
  } while (false)

#define KEYLOAD_CONCAT_INNER(a, b) a##b
#define KEYLOAD_CONCAT(a, b) KEYLOAD_CONCAT_INNER(a, b)
#define KEYLOAD_ASSIGN_OR_RETURN(declaration, expression) \
  KEYLOAD_ASSIGN_OR_RETURN_IMPL(KEYLOAD_CONCAT(keyload_or_, __LINE__), declaration, expression)
#define KEYLOAD_ASSIGN_OR_RETURN_IMPL(temporary, declaration, expression) \
  auto temporary = (expression);                                          \
  if (!temporary.ok()) return std::move(temporary).status();              \
  declaration = *std::move(temporary)
