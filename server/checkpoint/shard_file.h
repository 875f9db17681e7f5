#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "server/base/file_kind.h"
#include "server/checkpoint/checkpoint_index.h"
#include "server/checkpoint/header_memory.h"
#include "server/checkpoint/index_file.h"
#include "server/checkpoint/model_roots.h"
#include "server/checkpoint/safetensors_header.h"

namespace keyload {

// Makes a shard of an open safetensors file and identifies it; data_offset is not known yet. `path` is the file as
// errors name it, `name` what reports show. CHECKPOINT_CORRUPT for a directory; IO_ERROR.
absl::StatusOr<Shard> MakeShard(OpenedPath opened, const std::string& path, const std::string& name);

// How long the header of `shard` is. Blocks. CHECKPOINT_CORRUPT, CHECKPOINT_TRUNCATED, IO_ERROR.
absl::StatusOr<uint64_t> ReadHeaderLength(const Shard& shard, const std::string& path);
// Reads and validates that header, of `length` bytes; no tensor byte. `number` is the shard's index among the shards.
// What the result holds stays with `charge`. Blocks. MEMORY_EXHAUSTED besides.
absl::StatusOr<SafetensorsHeader> ReadShardHeader(const Shard& shard, uint64_t length, const std::string& path,
                                                  uint32_t number, HeaderCharge& charge);

// What an open file is instead of safetensors, by its first bytes; nothing where they do not tell. IO_ERROR.
absl::StatusOr<std::optional<FileKind>> RecognizeOpened(const OpenedPath& opened, const std::string& path);

// Identifies an open index file. CHECKPOINT_CORRUPT for a directory; IO_ERROR.
absl::StatusOr<FileIdentity> IdentifyJsonFile(const OpenedPath& opened, const std::string& path);
// Reads and parses an open index file of `size` bytes. What the result holds stays with `charge`. CHECKPOINT_TRUNCATED
// if it shrinks meanwhile; IO_ERROR; what ParseIndexFile returns.
absl::StatusOr<IndexFile> ReadIndexFile(const OpenedPath& opened, const std::string& path, uint64_t size,
                                        HeaderCharge& charge);

}  // namespace keyload
