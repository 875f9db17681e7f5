#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/checkpoint/header_memory.h"
#include "server/checkpoint/json_buffer.h"

namespace keyload {

// The index of a sharded checkpoint: {"metadata": ..., "weight_map": {key: shard file name, ...}}.

// Over a million keys, with names as long as those of the largest models have.
inline constexpr uint64_t kMaxIndexBytes = uint64_t{128} << 20;
inline constexpr size_t kMaxShards = 10'000;  // each is a descriptor while the checkpoint is open

struct IndexFile {
  struct Entry {
    std::string_view key;
    uint32_t shard = 0;  // into shards
  };
  std::vector<std::string> shards;     // sorted, distinct; paths below the checkpoint
  std::vector<Entry> entries;          // as in the file; a key may come twice
  std::unique_ptr<std::string> names;  // storage behind Entry::key
  std::optional<uint64_t> total_size;  // of "metadata"; nothing where it is no whole number, as some writers leave it
};

// "" for a plain file name that a checkpoint may hold, else what is wrong with it.
std::string FileNameProblem(std::string_view name);

// The same for the path of a shard below its checkpoint: plain file names with '/' between them, which can name nothing
// above it.
std::string ShardPathProblem(std::string_view path);

// Pure. `file` is the name used in errors. Other fields are ignored. What the result holds stays with
// `charge`, which may be null. CHECKPOINT_CORRUPT; FORMAT_NOT_SUPPORTED for shards in another format; MEMORY_EXHAUSTED.
absl::StatusOr<IndexFile> ParseIndexFile(const JsonBuffer& json, std::string_view file, HeaderCharge* charge = nullptr);

}  // namespace keyload
