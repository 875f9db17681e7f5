#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/error.h"
#include "server/base/executor.h"
#include "server/base/fd.h"
#include "server/base/request_context.h"
#include "server/checkpoint/checkpoint_headers.h"
#include "server/checkpoint/model_roots.h"

namespace keyload {

class HeaderCache;

// One safetensors file, opened and validated. The descriptor lives as long as the last holder.
struct Shard {
  std::string file;      // name inside the checkpoint, as reports show it: "model-00001-of-00163.safetensors"
  std::string resolved;  // absolute path, symlinks followed
  std::shared_ptr<const UniqueFd> fd;
  FileIdentity identity;     // when it was opened
  uint64_t data_offset = 0;  // where tensor bytes begin
};

// CHECKPOINT_CHANGED when the file is not the one that was opened, as far as stat can tell: "FILE: the file changed
// WHEN". `metadata` is added to the error's. IO_ERROR.
absl::Status CheckUnchanged(const Shard& shard, std::string_view when, ErrorMetadata metadata = {});

// Where each key's bytes are: the validated headers of every shard of one checkpoint, and the shards, opened.
// Immutable, thread-safe. Inside a shard the tensors cover the data without hole or overlap; names are unique over all
// shards.
class CheckpointIndex {
 public:
  struct Content {
    std::string resolved;    // directory or file
    std::string index_file;  // "model.safetensors.index.json", or empty
    std::vector<Shard> shards;
    std::shared_ptr<const CheckpointHeaders> headers;  // never null; other indexes of the same files may hold them too
  };
  explicit CheckpointIndex(Content content) : content_(std::move(content)) {}

  const std::string& resolved() const { return content_.resolved; }
  const std::string& index_file() const { return content_.index_file; }
  const std::vector<Shard>& shards() const { return content_.shards; }
  const CheckpointHeaders& headers() const { return *content_.headers; }
  const std::vector<StoredTensor>& tensors() const { return headers().tensors(); }  // by shard, then offset
  // Keys that the index file names and their shard lacks; sorted.
  const std::vector<std::string>& index_only_keys() const { return headers().index_only_keys(); }
  // Keys that a shard has and the index file does not; they count as present.
  const std::vector<std::string>& unindexed_keys() const { return headers().unindexed_keys(); }
  // Position in tensors(), or -1.
  int64_t Find(std::string_view name) const { return headers().Find(name); }

 private:
  const Content content_;
};

struct CheckpointSource {
  std::string path;  // absolute: a directory or a .safetensors file
  std::string
      weights;  // which set of a directory: a file name, an index file name, or a variant; empty: the standard order
  bool allow_no_weights = false;
};

inline constexpr uint64_t kMaxCheckpointKeys = 10'000'000;

// What opening a checkpoint may use besides the calling thread.
struct HeaderReading {
  Executor* threads = nullptr;             // read headers too where they are free; null: only the caller does
  HeaderCache* cache = nullptr;            // null: every header is read
  uint64_t max_keys = kMaxCheckpointKeys;  // of all shards together; more are CHECKPOINT_CORRUPT
};

// Opens a checkpoint and reads the headers of its shards; no tensor byte. Standard order in a directory:
// model.safetensors, model.safetensors.index.json, the only *.safetensors.index.json, the only *.safetensors. Every
// path is checked and every file opened at each call, also where its header is known. Blocks on file reads; checks
// `context` per shard. PATH_NOT_ALLOWED, PATH_NOT_READABLE, CHECKPOINT_NOT_FOUND, CHECKPOINT_AMBIGUOUS,
// CHECKPOINT_CORRUPT, CHECKPOINT_TRUNCATED, FORMAT_NOT_SUPPORTED (only pickle weights), BAD_REQUEST; messages name the
// file, the key and the offset. Of several broken shards the first in order is told.
absl::StatusOr<std::shared_ptr<const CheckpointIndex>> OpenCheckpoint(const ModelRoots& roots,
                                                                      const CheckpointSource& source,
                                                                      const RequestContext& context,
                                                                      const HeaderReading& reading = {});

}  // namespace keyload
