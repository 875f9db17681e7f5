#include "server/checkpoint/checkpoint_index.h"

#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "server/base/error.h"

namespace keyload {
namespace {

int64_t Nanoseconds(const timespec& time) { return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec; }

}  // namespace

absl::StatusOr<FileIdentity> IdentifyFile(int fd, std::string_view path) {
  struct stat status;
  if (::fstat(fd, &status) != 0) return ErrnoToStatus(errno, "fstat", path);
  return FileIdentity{.device = status.st_dev,
                      .inode = status.st_ino,
                      .size = static_cast<uint64_t>(status.st_size),
                      .mtime_ns = Nanoseconds(status.st_mtim),
                      .ctime_ns = Nanoseconds(status.st_ctim)};
}

CheckpointIndex::CheckpointIndex(Content content) : content_(std::move(content)) {
  by_name_.reserve(content_.tensors.size());
  for (uint32_t i = 0; i < content_.tensors.size(); ++i) by_name_.try_emplace(content_.tensors[i].name, i);
}

int64_t CheckpointIndex::Find(std::string_view name) const {
  auto found = by_name_.find(name);
  return found == by_name_.end() ? -1 : int64_t{found->second};
}

void CheckpointIndex::SetIndexDifferences(std::vector<std::string> index_only_keys,
                                          std::vector<std::string> unindexed_keys) {
  content_.index_only_keys = std::move(index_only_keys);
  content_.unindexed_keys = std::move(unindexed_keys);
}

}  // namespace keyload
