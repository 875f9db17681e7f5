#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "server/base/mutex.h"

namespace keyload {

// Bytes of names in one error: in its message, and in its metadata `absent`.
inline constexpr size_t kMaxNamesInMessage = 700;
inline constexpr size_t kMaxNamesInMetadata = 500;

// What is wrong with the shards of one checkpoint: which are absent, which lack bytes, which are something else. A
// download that was cut off, or a clone without Git LFS, has many of them, and whoever fetches them again wants all
// their names at once. Thread-safe.
class ShardFaults {
 public:
  // Keeps `fault`, of the shard `number`, if it is one of these kinds; false for all others, which end an open.
  bool Take(uint32_t number, const absl::Status& fault);
  bool any() const;
  // In order.
  std::vector<uint32_t> absent() const;
  bool only_absent() const;

  // One error for all of it. CHECKPOINT_NOT_FOUND where shards are absent, else what the first fault is. `index` is
  // the path of the index file, `names` are those of all its shards, and `hint`, which may be empty, stands behind the
  // names of the absent ones.
  absl::Status Tell(std::string_view index, const std::vector<std::string>& names, std::string_view hint) const;

 private:
  mutable Mutex mutex_;
  std::map<uint32_t, absl::Status> faults_ ABSL_GUARDED_BY(mutex_);  // by number
};

// All of `names`, separated by ", ", in at most `limit` bytes: where they do not fit, those that only a number tells
// apart become one, "model-{00003..00160}-of-00163.safetensors", as shells and globs read it; what does not fit then
// is counted. `names` are sorted.
std::string NamesWithin(const std::vector<std::string>& names, size_t limit);

}  // namespace keyload
