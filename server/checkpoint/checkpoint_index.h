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
#include "server/checkpoint/checkpoint_directory.h"
#include "server/checkpoint/checkpoint_headers.h"
#include "server/checkpoint/header_memory.h"
#include "server/checkpoint/model_roots.h"

namespace keyload {

class HeaderCache;

// One safetensors file, opened and validated. The descriptor lives as long as the last holder; it is null, and the
// identity empty, where the shard is absent (CheckpointSource::may_lack_shards).
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
// Immutable, thread-safe. Inside a shard the tensors cover the data without hole or overlap, but for those that count
// in another shard; names are unique over all shards.
class CheckpointIndex {
 public:
  struct Content {
    std::string resolved;                                  // directory or file
    std::shared_ptr<const CheckpointDirectory> directory;  // null where the path was that of a safetensors file
    bool from_directory = false;                           // the path was that of `directory`
    std::string index_file;                                // "model.safetensors.index.json", or empty
    FileIdentity index_identity;                           // when it was opened
    std::vector<Shard> shards;
    std::vector<std::string> warnings;                 // about its directory
    std::shared_ptr<const CheckpointHeaders> headers;  // never null; other indexes of the same files may hold them too
  };
  explicit CheckpointIndex(Content content) : content_(std::move(content)) {}

  const std::string& resolved() const { return content_.resolved; }
  // The directory that the source named; null where it named a file.
  std::shared_ptr<const CheckpointDirectory> source_directory() const {
    return content_.from_directory ? content_.directory : nullptr;
  }
  const std::string& index_file() const { return content_.index_file; }
  const std::vector<Shard>& shards() const { return content_.shards; }
  const CheckpointHeaders& headers() const { return *content_.headers; }
  const std::vector<StoredTensor>& tensors() const { return headers().tensors(); }  // by shard, then offset
  // Keys that the index file names and their shard lacks; sorted.
  const std::vector<std::string>& index_only_keys() const { return headers().index_only_keys(); }
  // Keys that a shard has and the index file does not; they count as present.
  const std::vector<std::string>& unindexed_keys() const { return headers().unindexed_keys(); }
  // Keys that the index file says are in shards that are absent; sorted. Empty unless the source may lack shards.
  const std::vector<AbsentKey>& absent_keys() const { return headers().absent_keys(); }
  // What a user of this checkpoint should know about its files.
  std::vector<std::string> Warnings() const;
  // CHECKPOINT_NOT_FOUND: these shards are absent, and needed. `needed` are their numbers, in order, `hint` stands
  // behind their names.
  absl::Status ShardsAbsent(const std::vector<uint32_t>& needed, std::string_view hint) const;
  // Position in tensors(), or -1.
  int64_t Find(std::string_view name) const { return headers().Find(name); }
  // Looks the index file and every shard up again in the directory that is held. CHECKPOINT_CHANGED when one of the
  // names leads to another file than the one that is open, or the file was written. OpenCheckpoint has done so; again
  // it is for who opens a further file of the directory. Blocks on the file system.
  absl::Status CheckEntries() const { return CheckEntries(content_); }
  static absl::Status CheckEntries(const Content& content);

 private:
  const Content content_;
};

struct CheckpointSource {
  std::string path;  // absolute: a directory or a .safetensors file
  std::string
      weights;  // which set of a directory: a file name, an index file name, or a variant; empty: the standard order
  bool allow_no_weights = false;
  // Shards of an index file that are not there are no error as long as others are: for who needs only some of the keys
  // and looks at absent_keys().
  bool may_lack_shards = false;
};

inline constexpr uint64_t kMaxCheckpointKeys = 10'000'000;
// Of all shards together: what kMaxCheckpointKeys keys need, and not more, as a header may be almost all blanks.
inline constexpr uint64_t kMaxCheckpointHeaderBytes = uint64_t{2} << 30;

// What opening a checkpoint may use besides the calling thread.
struct HeaderReading {
  Executor* threads = nullptr;             // read headers too where they are free; null: only the caller does
  HeaderCache* cache = nullptr;            // null: every header is read
  HeaderMemory* memory = nullptr;          // null: heap is not counted
  uint64_t max_keys = kMaxCheckpointKeys;  // of all shards together; more are CHECKPOINT_CORRUPT
};

// Opens a checkpoint and reads the headers of its shards; no tensor byte. Standard order in a directory:
// model.safetensors, model.safetensors.index.json, the only *.safetensors.index.json, the only *.safetensors, each
// without variants. A repository of a hub's cache stands for its snapshot. Every
// path is checked and every file opened at each call, also where its header is known. All files are of one directory
// and were in it at one time; where they were not, because another version of the checkpoint was put there meanwhile,
// the answer is CHECKPOINT_CHANGED. Blocks on file reads; checks `context` per shard and in loops over names.
// PATH_NOT_ALLOWED, PATH_NOT_READABLE, CHECKPOINT_NOT_FOUND, CHECKPOINT_AMBIGUOUS, CHECKPOINT_CORRUPT,
// CHECKPOINT_TRUNCATED, CHECKPOINT_CHANGED, FORMAT_NOT_SUPPORTED (only pickle weights), MEMORY_EXHAUSTED, BAD_REQUEST;
// messages name the file, the key and the offset. All shards are told that are absent, cut off or no safetensors; of
// several that are broken otherwise, the first in order.
absl::StatusOr<std::shared_ptr<const CheckpointIndex>> OpenCheckpoint(const ModelRoots& roots,
                                                                      const CheckpointSource& source,
                                                                      const RequestContext& context,
                                                                      const HeaderReading& reading = {});

}  // namespace keyload
