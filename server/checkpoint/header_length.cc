#include <string>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/base/error.h"
#include "server/checkpoint/safetensors_header.h"

namespace keyload {
namespace {

std::string Hex(std::string_view bytes) {
  return absl::StrJoin(bytes, " ", [](std::string* out, char byte) {
    absl::StrAppendFormat(out, "%02x", static_cast<unsigned char>(byte));
  });
}

}  // namespace

absl::StatusOr<uint64_t> ParseHeaderLength(std::string_view prefix, uint64_t file_size, std::string_view file) {
  const ErrorMetadata metadata = {{"file", std::string(file)}, {"offset", "0"}};
  if (prefix.size() < kHeaderPrefixBytes || file_size < kHeaderPrefixBytes) {
    return MakeError(Reason::kCheckpointTruncated,
                     absl::StrFormat("%s: the file has %d bytes, too few for a safetensors header", file, file_size),
                     metadata);
  }
  uint64_t length = 0;
  for (size_t i = 0; i < kHeaderPrefixBytes; ++i) length |= uint64_t{static_cast<unsigned char>(prefix[i])} << (8 * i);
  if (length > kMaxHeaderBytes) {
    return MakeError(Reason::kCheckpointCorrupt,
                     length <= 1000 * kMaxHeaderBytes
                         ? absl::StrFormat("%s: the header length at byte 0 is %d, more than the allowed %d bytes",
                                           file, length, kMaxHeaderBytes)
                         : absl::StrFormat("%s: its first 8 bytes (%s) are no length of a header: this is no "
                                           "safetensors file, or its beginning was overwritten; fetch it again",
                                           file, Hex(prefix.substr(0, kHeaderPrefixBytes))),
                     metadata);
  }
  if (length > file_size - kHeaderPrefixBytes) {
    return MakeError(
        Reason::kCheckpointTruncated,
        absl::StrFormat("%s: the file has %d bytes and ends inside its header of %d", file, file_size, length),
        metadata);
  }
  return length;
}

}  // namespace keyload
