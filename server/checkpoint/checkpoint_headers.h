#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "server/checkpoint/dtype.h"
#include "server/checkpoint/file_identity.h"
#include "server/checkpoint/header_memory.h"
#include "server/checkpoint/name_table.h"

namespace keyload {

struct StoredTensor {
  std::string_view name;  // lives in the headers' name blocks
  Shape shape;
  uint64_t offset = 0;  // in the file, from its start
  uint64_t bytes = 0;
  uint32_t shard = 0;  // index into the shards
  DType dtype = DType::kF32;
};

// A further name of a stored tensor, as __metadata__ says it: safetensors' save_model stores a shared tensor once.
struct StoredAlias {
  std::string alias;
  std::string stored;  // the tensor's name in the same shard
};
using StoredAliases = std::vector<StoredAlias>;
uint64_t MemoryBytes(const StoredAliases& aliases);

// One shard's part of CheckpointHeaders.
struct ShardHeader {
  std::string file;  // name inside the checkpoint
  FileIdentity identity;
  uint64_t data_offset = 0;
  uint32_t first_tensor = 0;
  uint32_t tensor_count = 0;
  bool whole =
      true;  // false: some of its tensors count in another shard, as the index file says, and are left out here
  std::shared_ptr<const std::string> names;                // storage behind its StoredTensor::name
  std::shared_ptr<const StoredAliases> aliases = nullptr;  // null: none
};

// A key that the index file says is in a shard that is absent.
struct AbsentKey {
  std::string name;
  uint32_t shard = 0;  // index into the shards
};

// Tensors that are in two shards or more, of which the index file says which one counts; the others are left out.
struct OtherCopies {
  uint64_t count = 0;
  std::string example;  // the name of one
  uint32_t counts = 0;  // the shard in which it counts
  uint32_t other = 0;   // one in which it is left out
};

// What the headers of a checkpoint's shards and its index file say, without paths and descriptors: what several opens
// of the same files share. Immutable once shared, thread-safe.
class CheckpointHeaders {
 public:
  struct Content {
    std::vector<ShardHeader> shards;           // empty when made by hand
    std::vector<StoredTensor> tensors;         // by shard, then offset
    std::vector<std::string> index_only_keys;  // as CheckpointIndex has them
    std::vector<std::string> unindexed_keys;
    std::vector<AbsentKey> absent_keys;
    OtherCopies other_copies;
    std::optional<uint64_t> total_size;  // of the tensors, as the index file says; nothing: it does not
    std::vector<std::shared_ptr<const std::string>> name_blocks;  // storage besides ShardHeader::names
  };
  explicit CheckpointHeaders(Content content);
  // `by_name` finds the names of `content`.
  CheckpointHeaders(Content content, NameTable by_name);

  const std::vector<ShardHeader>& shards() const { return content_.shards; }
  const std::vector<StoredTensor>& tensors() const { return content_.tensors; }
  const std::vector<std::string>& index_only_keys() const { return content_.index_only_keys; }
  const std::vector<std::string>& unindexed_keys() const { return content_.unindexed_keys; }
  const std::vector<AbsentKey>& absent_keys() const { return content_.absent_keys; }
  const OtherCopies& other_copies() const { return content_.other_copies; }
  std::optional<uint64_t> total_size() const { return content_.total_size; }
  // Position in tensors(), or -1.
  int64_t Find(std::string_view name) const;
  // As Find(name); quick when the name is the one at `guess`, which may be any number.
  int64_t Find(std::string_view name, int64_t guess) const;
  // Positions in tensors() by natural order of their names. The first call sorts, others wait for it.
  const std::vector<uint32_t>& NaturalOrder() const;
  // Memory held, about.
  uint64_t bytes() const { return bytes_; }

  // For OpenCheckpoint, before it shares the headers: how the index file differs from them, and the charge that counts
  // their memory from now on.
  void SetIndexDifferences(std::vector<std::string> index_only_keys, std::vector<std::string> unindexed_keys,
                           std::vector<AbsentKey> absent_keys);
  void SetCharge(std::unique_ptr<HeaderCharge> charge);

 private:
  uint64_t CountBytes() const;

  std::unique_ptr<HeaderCharge> charge_;  // first, as it ends last; null: nothing is counted
  Content content_;
  NameTable by_name_;
  uint64_t bytes_ = 0;
  mutable std::once_flag ordered_;
  mutable std::vector<uint32_t> natural_order_;  // constant after ordered_
};

}  // namespace keyload
