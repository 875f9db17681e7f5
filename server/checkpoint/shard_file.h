#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "server/checkpoint/checkpoint_index.h"
#include "server/checkpoint/json_buffer.h"
#include "server/checkpoint/model_roots.h"
#include "server/checkpoint/safetensors_header.h"

namespace keyload {

struct ShardContent {
  Shard shard;
  SafetensorsHeader header;
};

// Reads and validates the header of an open safetensors file; no tensor byte. `path` is the file as errors name it,
// `name` what reports show, `number` its index among the shards. Blocks. CHECKPOINT_CORRUPT, CHECKPOINT_TRUNCATED,
// IO_ERROR.
absl::StatusOr<ShardContent> ReadShard(OpenedPath opened, const std::string& path, const std::string& name,
                                       uint32_t number);

// Reads an open file as a whole. CHECKPOINT_CORRUPT if it has more than `limit` bytes; CHECKPOINT_TRUNCATED if it
// shrinks meanwhile; IO_ERROR.
absl::StatusOr<JsonBuffer> ReadJsonFile(const OpenedPath& opened, const std::string& path, uint64_t limit);

}  // namespace keyload
