#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "attach/attach_format.h"

namespace keyload {

// The messages of the attach socket, as docs/attach.md specifies them byte for byte. What the other end writes is not
// trusted: texts are bytes of any kind within their bounds.

using AttachTokenBytes = std::array<uint8_t, kAttachTokenBytes>;

// To the server, once: the lease that the token stands for.
struct AttachHello {
  AttachTokenBytes token = {};
  uint16_t batch = 0;  // descriptors that one message may bring
  std::string label;
};
// To the server, instead of HELLO: a new lease. No include and no key: all keys of the model.
struct AttachRequest {
  uint16_t batch = 0;
  bool materialize = false;  // what is lazy becomes resident first
  std::string label;
  std::string model;
  std::vector<std::string> include;
  std::vector<std::string> exclude;
  std::vector<std::string> keys;
};
// To the client, with descriptor 0: the table.
struct AttachGranted {
  uint64_t generation = 0;
  uint32_t descriptors = 0;  // with the table
  std::string lease;
};
// To the server: the first descriptor that has not come yet. All of them: the lease is complete.
struct AttachNext {
  uint32_t descriptor = 0;
};
// To the client, with `count` descriptors from `first` on.
struct AttachDescriptors {
  uint32_t first = 0;
  uint32_t count = 0;
};
// To the client, of a complete lease.
enum class AttachNoteKind : uint32_t { kNewGeneration = 1, kLeaseEnded = 2, kDraining = 3, kDeviceLost = 4 };
struct AttachNote {
  AttachNoteKind kind = AttachNoteKind::kNewGeneration;
  uint64_t generation = 0;
};
// To the server: the lease ends, whoever else has the connection.
struct AttachRelease {};
// To the client, last of all. `reason` is one of docs/errors.md.
struct AttachError {
  absl::StatusCode code = absl::StatusCode::kUnknown;
  std::string reason;
  std::string text;
};

using AttachMessage = std::variant<AttachHello, AttachRequest, AttachGranted, AttachNext, AttachDescriptors, AttachNote,
                                   AttachRelease, AttachError>;

// One packet. INVALID_ARGUMENT says which field is out of its bounds, or that the whole is.
absl::StatusOr<std::string> EncodeAttachMessage(const AttachMessage& message);

// INVALID_ARGUMENT unless `packet` is exactly one valid message. Takes less than 200 KB of heap, whatever it says.
absl::StatusOr<AttachMessage> DecodeAttachMessage(std::string_view packet);

// An error with its texts cut to what a message may carry.
AttachError MakeAttachError(absl::StatusCode code, std::string_view reason, std::string_view text);

}  // namespace keyload
