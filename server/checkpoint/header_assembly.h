#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/mutex.h"
#include "server/base/request_context.h"
#include "server/checkpoint/checkpoint_headers.h"
#include "server/checkpoint/checkpoint_index.h"
#include "server/checkpoint/header_cache.h"
#include "server/checkpoint/header_memory.h"
#include "server/checkpoint/index_file.h"
#include "server/checkpoint/name_table.h"
#include "server/checkpoint/safetensors_header.h"

namespace keyload {

// The header of one shard: read just now, or known already.
struct ShardRead {
  SafetensorsHeader header;
  HeaderCache::KnownShard known;  // of no headers: `header` it is
};

// Puts the headers of a checkpoint's shards together, in the order of the shards, while others are still being read.
// Which of two shards counts that have one name says the index file, at the end.
class HeaderAssembly {
 public:
  // `path` is the checkpoint as errors name it; `charge` lives longer.
  HeaderAssembly(std::string path, size_t shards, HeaderCharge& charge);

  // Room for `keys` keys, so that tables need not grow. MEMORY_EXHAUSTED. Call before the first Add, if at all.
  absl::Status Reserve(size_t keys);
  // Takes what was read of `shard`, the one at `number`, and appends it as soon as all before it are there. Once for
  // each shard, in any order. Thread-safe. CHECKPOINT_CORRUPT: a name is in it twice; MEMORY_EXHAUSTED.
  absl::Status Add(uint32_t number, const Shard& shard, ShardRead read);
  // What was put together, after all have been added. `index` is the index file, null where there is none. Names that
  // are in several shards count in the one that it says. CHECKPOINT_CORRUPT: it does not say one of these, or has no
  // such name; MEMORY_EXHAUSTED; what `context` says.
  absl::StatusOr<std::shared_ptr<CheckpointHeaders>> Finish(const IndexFile* index, const RequestContext& context);

 private:
  struct Waiting {
    const Shard* shard = nullptr;
    ShardRead read;
  };

  absl::Status Append(uint32_t number, Waiting waiting);
  absl::Status InsertNames(size_t first);
  // Room for `keys` names in the table, where the first `present` are in it.
  absl::Status ReserveNames(size_t keys, size_t present);
  auto NameAt() const {
    return [this](uint32_t i) { return content_.tensors[i].name; };
  }
  // That the tensor at `again` has the name of an earlier one.
  absl::Status NameTwice(uint32_t again) const;
  // Leaves out the tensors of again_ that do not count by `index`, or those that they are copies of.
  absl::Status LeaveOutCopies(const IndexFile& index, const RequestContext& context);
  absl::Status Remove(const std::vector<bool>& left_out);

  const std::string path_;
  HeaderCharge& charge_;
  Mutex mutex_;
  std::vector<std::optional<Waiting>> waiting_ ABSL_GUARDED_BY(mutex_);  // per shard
  uint32_t next_ ABSL_GUARDED_BY(mutex_) = 0;                            // the shard that is appended next
  bool appending_ ABSL_GUARDED_BY(mutex_) = false;  // one thread does, or met an error; it alone uses what follows
  CheckpointHeaders::Content content_;
  NameTable by_name_{0};
  size_t table_bytes_ = 0;       // that are counted of by_name_
  std::vector<uint32_t> again_;  // tensors whose names earlier ones have
};

}  // namespace keyload
