#include "server/access/file_watch.h"

#include <sys/stat.h>

#include <utility>

namespace keyload {
namespace {

int64_t Nanoseconds(const timespec& time) { return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec; }

}  // namespace

FileWatch::FileWatch(std::vector<std::string> paths) : paths_(std::move(paths)), known_(Look()), seen_(known_) {}

std::vector<FileWatch::Print> FileWatch::Look() const {
  std::vector<Print> prints;
  for (const std::string& path : paths_) {
    struct stat info = {};
    Print& print = prints.emplace_back();
    if (stat(path.c_str(), &info) != 0) continue;
    print = {.device = info.st_dev,
             .inode = info.st_ino,
             .size = static_cast<uint64_t>(info.st_size),
             .mtime_ns = Nanoseconds(info.st_mtim),
             .ctime_ns = Nanoseconds(info.st_ctim)};
  }
  return prints;
}

bool FileWatch::Changed() {
  std::vector<Print> now = Look();
  const bool settled = now == seen_;
  seen_ = std::move(now);
  if (!settled || seen_ == known_) return false;
  known_ = seen_;
  return true;
}

}  // namespace keyload
