#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/checkpoint/checkpoint_headers.h"
#include "server/checkpoint/header_memory.h"
#include "server/checkpoint/json_buffer.h"

namespace keyload {

// A safetensors file:
//
//   | N: 8 bytes, little endian | N bytes of JSON: name -> {dtype, shape, data_offsets} | tensor bytes |
//   0                           8                                                       8 + N          file size
//
// All functions are pure. `file` is the name used in errors; their "offset" counts from the start of the file.

inline constexpr uint64_t kHeaderPrefixBytes = 8;
inline constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit, inclusive
inline constexpr size_t kMaxRank = 64;                    // as many dimensions as PyTorch's tensors may have

// Reads N from the first bytes of a file (all of them if there are fewer than 8).
// CHECKPOINT_TRUNCATED: the file ends in the prefix or the header. CHECKPOINT_CORRUPT: N is over the limit.
absl::StatusOr<uint64_t> ParseHeaderLength(std::string_view prefix, uint64_t file_size, std::string_view file);

struct SafetensorsHeader {
  std::vector<StoredTensor> tensors;             // by offset; they cover the data without hole or overlap
  std::shared_ptr<const std::string> names;      // storage behind StoredTensor::name
  std::shared_ptr<const StoredAliases> aliases;  // further names of its tensors, of __metadata__; null: none
  uint64_t data_offset = 0;
};

// Validates the JSON of a header against the size of its file. Names are unique, at most 4096 bytes, free of NUL.
// Fields of an entry that the format does not know are ignored. `shard` goes into every tensor. Time is linear in the
// header when entries come by offset. What the result holds stays with `charge`, which may be null.
// CHECKPOINT_TRUNCATED: the file lacks bytes at its end. MEMORY_EXHAUSTED: its tensors, or parsing them, take more heap
// than is free. CHECKPOINT_CORRUPT: everything else.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(const JsonBuffer& header, uint64_t file_size,
                                                         std::string_view file, uint32_t shard = 0,
                                                         HeaderCharge* charge = nullptr);

}  // namespace keyload
