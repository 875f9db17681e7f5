#include "server/checkpoint/file_identity.h"

#include <sys/stat.h>

#include <cerrno>

#include "server/base/error.h"

namespace keyload {
namespace {

int64_t Nanoseconds(const timespec& time) { return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec; }

FileIdentity IdentityOf(const struct stat& status) {
  return {.device = status.st_dev,
          .inode = status.st_ino,
          .size = static_cast<uint64_t>(status.st_size),
          .mtime_ns = Nanoseconds(status.st_mtim),
          .ctime_ns = Nanoseconds(status.st_ctim)};
}

}  // namespace

absl::StatusOr<FileIdentity> IdentifyFile(int fd, std::string_view path) {
  struct stat status;
  if (::fstat(fd, &status) != 0) return ErrnoToStatus(errno, "fstat", path);
  return IdentityOf(status);
}

absl::StatusOr<FileIdentity> IdentifyEntry(int fd, const std::string& name, std::string_view path) {
  struct stat status;
  if (::fstatat(fd, name.c_str(), &status, 0) != 0) return ErrnoToStatus(errno, "stat", path);
  return IdentityOf(status);
}

}  // namespace keyload
