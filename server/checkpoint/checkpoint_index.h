#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "server/base/fd.h"
#include "server/base/request_context.h"
#include "server/checkpoint/dtype.h"
#include "server/checkpoint/model_roots.h"

namespace keyload {

// What identifies a file's content as far as stat can tell.
struct FileIdentity {
  uint64_t device = 0;
  uint64_t inode = 0;
  uint64_t size = 0;
  int64_t mtime_ns = 0;
  int64_t ctime_ns = 0;
  bool operator==(const FileIdentity&) const = default;
};
// IO_ERROR names `path`.
absl::StatusOr<FileIdentity> IdentifyFile(int fd, std::string_view path);

// One safetensors file, opened and validated. The descriptor lives as long as the last holder.
struct Shard {
  std::string file;      // name inside the checkpoint, as reports show it: "model-00001-of-00163.safetensors"
  std::string resolved;  // absolute path, symlinks followed
  std::shared_ptr<const UniqueFd> fd;
  FileIdentity identity;     // when it was opened
  uint64_t data_offset = 0;  // where tensor bytes begin
};

struct StoredTensor {
  std::string_view name;  // lives in the index's arena
  Shape shape;
  uint64_t offset = 0;  // in the file, from its start
  uint64_t bytes = 0;
  uint32_t shard = 0;  // index into shards()
  DType dtype = DType::kF32;
};

// Where each key's bytes are: the validated headers of every shard of one checkpoint. Immutable, thread-safe.
// Inside a shard the tensors cover the data without hole or overlap; names are unique over all shards.
class CheckpointIndex {
 public:
  struct Content {
    std::string resolved;    // directory or file
    std::string index_file;  // "model.safetensors.index.json", or empty
    std::vector<Shard> shards;
    std::vector<StoredTensor> tensors;         // by shard, then offset
    std::vector<std::string> index_only_keys;  // the index file names them, their shard lacks them; sorted
    std::vector<std::string> unindexed_keys;   // a shard has them, the index file does not; they count as present
    std::vector<std::unique_ptr<std::string>> name_blocks;  // storage behind StoredTensor::name
  };
  explicit CheckpointIndex(Content content);

  const std::string& resolved() const { return content_.resolved; }
  const std::string& index_file() const { return content_.index_file; }
  const std::vector<Shard>& shards() const { return content_.shards; }
  const std::vector<StoredTensor>& tensors() const { return content_.tensors; }
  const std::vector<std::string>& index_only_keys() const { return content_.index_only_keys; }
  const std::vector<std::string>& unindexed_keys() const { return content_.unindexed_keys; }
  // Position in tensors(), or -1.
  int64_t Find(std::string_view name) const;

  // For OpenCheckpoint, before it shares the index: whether names are not unique after all, and how the index file
  // differs from the headers.
  bool HasDuplicateNames() const { return by_name_.size() != content_.tensors.size(); }
  void SetIndexDifferences(std::vector<std::string> index_only_keys, std::vector<std::string> unindexed_keys);

 private:
  Content content_;
  absl::flat_hash_map<std::string_view, uint32_t> by_name_;
};

struct CheckpointSource {
  std::string path;  // absolute: a directory or a .safetensors file
  std::string
      weights;  // which set of a directory: a file name, an index file name, or a variant; empty: the standard order
  bool allow_no_weights = false;
};

// Opens a checkpoint and reads the headers of its shards; no tensor byte. Standard order in a directory:
// model.safetensors, model.safetensors.index.json, the only *.safetensors.index.json, the only *.safetensors. Blocks on
// file reads; checks `context` per shard. PATH_NOT_ALLOWED, PATH_NOT_READABLE, CHECKPOINT_NOT_FOUND,
// CHECKPOINT_AMBIGUOUS, CHECKPOINT_CORRUPT, CHECKPOINT_TRUNCATED, FORMAT_NOT_SUPPORTED (only pickle weights),
// BAD_REQUEST; messages name the file, the key and the offset.
absl::StatusOr<std::shared_ptr<const CheckpointIndex>> OpenCheckpoint(const ModelRoots& roots,
                                                                      const CheckpointSource& source,
                                                                      const RequestContext& context);

}  // namespace keyload
