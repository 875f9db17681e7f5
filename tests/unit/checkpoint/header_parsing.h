#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "server/checkpoint/safetensors_header.h"

namespace keyload {

// Parses `file` as ReadShard does a file on disk.
inline absl::StatusOr<SafetensorsHeader> ParseFile(std::string_view file) {
  absl::StatusOr<uint64_t> length = ParseHeaderLength(file.substr(0, kHeaderPrefixBytes), file.size(), "x.safetensors");
  if (!length.ok()) return length.status();
  return ParseSafetensorsHeader(JsonBuffer(file.substr(kHeaderPrefixBytes, *length)), file.size(), "x.safetensors");
}

inline std::string LengthBytes(uint64_t length) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(length >> (8 * i));
  return bytes;
}

// A file of header `json` and `data_bytes` zeros.
inline absl::StatusOr<SafetensorsHeader> ParseJson(std::string_view json, size_t data_bytes) {
  return ParseFile(LengthBytes(json.size()) + std::string(json) + std::string(data_bytes, '\0'));
}

}  // namespace keyload
