#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/base/mutex.h"
#include "server/checkpoint/checkpoint_headers.h"

namespace keyload {

// Headers of checkpoints that were opened lately, by the identity of their files: a file is opened and asked for its
// identity each time, and only what it says is remembered. Those used longest ago go first when there are too many.
// Thread-safe; never blocks on files.
//
// A file that is written again within the tick of the file system's clock keeps its times. So headers are kept only of
// files that had been left alone for kSettleTime when they were opened: whatever comes later has a later time.
class HeaderCache {
 public:
  static constexpr absl::Duration kSettleTime = absl::Seconds(2);

  struct Options {
    uint64_t max_bytes = uint64_t{256} << 20;
    std::function<absl::Time()> now = absl::Now;
  };
  explicit HeaderCache(Options options) : options_(std::move(options)) {}

  absl::Time now() const { return options_.now(); }

  // The headers that were read last when a checkpoint started from `start`: its index file, or its only shard. Null if
  // none are known. The caller compares the identities of the shards.
  std::shared_ptr<const CheckpointHeaders> FindCheckpoint(const FileIdentity& start);

  struct KnownShard {
    std::shared_ptr<const CheckpointHeaders> headers;
    uint32_t shard = 0;  // index into headers->shards()
  };
  // The header of one file, whatever checkpoint it was read for.
  std::optional<KnownShard> FindShard(const FileIdentity& file);

  // Keeps `headers`, of files that were identified at `opened_at` (of now()) or later, unless they take more than
  // max_bytes or one of the files changed too short a time before.
  void Add(const FileIdentity& start, std::shared_ptr<const CheckpointHeaders> headers, absl::Time opened_at);

  // Drops headers that nobody else holds, those used longest ago first, until `bytes` are free or none are left. True
  // when that freed something.
  bool MakeRoom(uint64_t bytes);

  uint64_t bytes() const;

 private:
  struct Entry {
    FileIdentity start;
    std::shared_ptr<const CheckpointHeaders> headers;
  };
  using Entries = std::list<Entry>;
  struct ShardPlace {
    Entries::iterator entry;
    uint32_t shard = 0;
  };

  // What an entry takes here: the headers, and where they are found.
  static uint64_t BytesOf(const CheckpointHeaders& headers);
  // Moves `entry` to `dropped`, which is for freeing without the lock.
  void Drop(Entries::iterator entry, Entries& dropped) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Options options_;
  mutable Mutex mutex_;
  Entries entries_ ABSL_GUARDED_BY(mutex_);  // used last first
  absl::flat_hash_map<FileIdentity, Entries::iterator> by_start_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<FileIdentity, ShardPlace> by_shard_ ABSL_GUARDED_BY(mutex_);
  uint64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace keyload
