#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "server/base/fd.h"
#include "server/base/mutex.h"

namespace keyload {

// The mount points in the text of /proc/self/mountinfo, which has " \t\n\\" as "\040" and so on. Lines that are none
// are left out.
std::vector<std::string> ParseMountPoints(std::string_view mountinfo);

// Which mount a path is on, by the text of the path alone: asking a mount that does not answer would hang. Thread-safe;
// does not block.
class MountTable {
 public:
  MountTable();

  // The mount point that begins `path`, which is absolute: the longest one. "/" when nothing is known.
  std::string Find(std::string_view path) const;

  // Follows the symlinks of `path` as the kernel does, and calls `enter` with each mount point before that mount is
  // touched. Blocks where a mount does not answer. Where the path ends, or cannot be followed, this returns.
  void Follow(std::string path, absl::FunctionRef<void(const std::string& mount)> enter) const;

 private:
  void ReadIfChanged() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable Mutex mutex_;
  const UniqueFd mountinfo_;  // polled for changes
  mutable bool known_ ABSL_GUARDED_BY(mutex_) = false;
  mutable std::vector<std::string> mounts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace keyload
