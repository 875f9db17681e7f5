#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "server/checkpoint/checkpoint_index.h"
#include "server/checkpoint/json_buffer.h"
#include "server/checkpoint/model_roots.h"
#include "server/checkpoint/safetensors_header.h"

namespace keyload {

// Makes a shard of an open safetensors file and identifies it; data_offset is not known yet. `path` is the file as
// errors name it, `name` what reports show. CHECKPOINT_CORRUPT for a directory; IO_ERROR.
absl::StatusOr<Shard> MakeShard(OpenedPath opened, const std::string& path, const std::string& name);

// Reads and validates the header of `shard`; no tensor byte. `number` is its index among the shards. Blocks.
// CHECKPOINT_CORRUPT, CHECKPOINT_TRUNCATED, IO_ERROR.
absl::StatusOr<SafetensorsHeader> ReadShardHeader(const Shard& shard, const std::string& path, uint32_t number);

// Identifies an open index file. CHECKPOINT_CORRUPT for a directory; IO_ERROR.
absl::StatusOr<FileIdentity> IdentifyJsonFile(const OpenedPath& opened, const std::string& path);
// Reads an open file of `size` bytes as a whole. CHECKPOINT_CORRUPT if that is more than `limit`; CHECKPOINT_TRUNCATED
// if it shrinks meanwhile; IO_ERROR.
absl::StatusOr<JsonBuffer> ReadJsonFile(const OpenedPath& opened, const std::string& path, uint64_t size,
                                        uint64_t limit);

}  // namespace keyload
