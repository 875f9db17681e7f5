#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"

namespace keyload {

enum class FileSystemKind {
  kLocal,
  // Network file systems, FUSE and virtiofs, and whatever is not known to be local: files there are read in sequence
  // and never mapped, because every page that is missing would be a round trip.
  kRemote,
};

// The kind of a file system by its superblock's magic number (statfs's f_type, see linux/magic.h).
FileSystemKind ClassifyFileSystem(uint32_t magic);

// The kind of the file system that `fd` is on. Does not touch the file. `file` is for messages. IO_ERROR.
absl::StatusOr<FileSystemKind> FileSystemOf(int fd, std::string_view file);

}  // namespace keyload
