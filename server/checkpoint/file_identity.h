#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"

namespace keyload {

// What identifies a file's content as far as stat can tell. The change time is part of it: whoever rewrites a file can
// set its modification time back (rsync, cp -p), but not its change time. What it costs is that a chmod or a new hard
// link makes a file look changed.
struct FileIdentity {
  uint64_t device = 0;
  uint64_t inode = 0;
  uint64_t size = 0;
  int64_t mtime_ns = 0;
  int64_t ctime_ns = 0;
  bool operator==(const FileIdentity&) const = default;

  template <typename H>
  friend H AbslHashValue(H state, const FileIdentity& file) {
    return H::combine(std::move(state), file.device, file.inode, file.size, file.mtime_ns, file.ctime_ns);
  }
};

// IO_ERROR names `path`.
absl::StatusOr<FileIdentity> IdentifyFile(int fd, std::string_view path);
// The same of what the entry `name` of the open directory `fd` leads to, links followed. CHECKPOINT_NOT_FOUND.
absl::StatusOr<FileIdentity> IdentifyEntry(int fd, const std::string& name, std::string_view path);

}  // namespace keyload
