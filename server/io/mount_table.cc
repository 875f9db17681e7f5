#include "server/io/mount_table.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <utility>

namespace keyload {
namespace {

constexpr int kMaxSymlinks = 40;  // as the kernel's own limit

// "\040" is a blank.
std::string Unescape(std::string_view text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto is_octal = [&](size_t at) { return at < text.size() && text[at] >= '0' && text[at] <= '7'; };
    if (text[i] == '\\' && is_octal(i + 1) && is_octal(i + 2) && is_octal(i + 3)) {
      plain += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

bool IsBelow(std::string_view path, std::string_view mount) {
  if (mount == "/") return path.starts_with('/');
  return path.starts_with(mount) && (path.size() == mount.size() || path[mount.size()] == '/');
}

std::string ReadAll(int fd) {
  std::string text;
  char buffer[8192];
  lseek(fd, 0, SEEK_SET);
  for (ssize_t got = 1; got != 0;) {
    got = read(fd, buffer, sizeof(buffer));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) break;
    text.append(buffer, static_cast<size_t>(got));
  }
  return text;
}

// What the symlink `path` says; nothing where it is none, or not there.
std::optional<std::string> ReadLink(const std::string& path) {
  char target[PATH_MAX];
  const ssize_t length = readlink(path.c_str(), target, sizeof(target));
  if (length <= 0) return std::nullopt;
  return std::string(target, static_cast<size_t>(length));
}

}  // namespace

std::vector<std::string> ParseMountPoints(std::string_view mountinfo) {
  std::vector<std::string> mounts;
  while (!mountinfo.empty()) {
    const std::string_view line = mountinfo.substr(0, mountinfo.find('\n'));
    mountinfo.remove_prefix(std::min(mountinfo.size(), line.size() + 1));
    // "36 35 98:0 /root /mount/point options ..."
    size_t begin = 0;
    for (int field = 0; field < 4 && begin != std::string_view::npos; ++field) {
      begin = line.find(' ', begin);
      if (begin != std::string_view::npos) ++begin;
    }
    if (begin == std::string_view::npos || begin >= line.size() || line[begin] != '/') continue;
    mounts.push_back(Unescape(line.substr(begin, line.find(' ', begin) - begin)));
  }
  return mounts;
}

MountTable::MountTable() : mountinfo_(open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC)) {}

void MountTable::ReadIfChanged() const {
  if (!mountinfo_) return;
  pollfd change = {.fd = mountinfo_.get(), .events = POLLPRI, .revents = 0};
  const bool changed = poll(&change, 1, 0) > 0 && (change.revents & (POLLPRI | POLLERR)) != 0;
  if (known_ && !changed) return;
  mounts_ = ParseMountPoints(ReadAll(mountinfo_.get()));
  known_ = true;
}

std::string MountTable::Find(std::string_view path) const {
  MutexLock lock(mutex_);
  ReadIfChanged();
  std::string_view longest = "/";
  for (const std::string& mount : mounts_) {
    if (mount.size() > longest.size() && IsBelow(path, mount)) longest = mount;
  }
  return std::string(longest);
}

void MountTable::Follow(std::string path, absl::FunctionRef<void(const std::string& mount)> enter) const {
  std::string done;  // without symlinks; empty: the root
  std::string mount;
  size_t next = 0;  // in path
  for (int links = 0; links < kMaxSymlinks && next < path.size();) {
    const size_t begin = path.find_first_not_of('/', next);
    if (begin == std::string::npos) return;
    next = std::min(path.find('/', begin), path.size());
    const std::string name = path.substr(begin, next - begin);
    if (name == ".") continue;
    if (name == "..") {
      done.erase(std::min(done.rfind('/'), done.size()));
      continue;
    }
    const std::string at = done + "/" + name;
    if (std::string found = Find(at); found != mount) {
      mount = std::move(found);
      enter(mount);
    }
    const std::optional<std::string> target = ReadLink(at);
    if (!target) {
      done = at;
      continue;
    }
    ++links;
    if (target->starts_with('/')) done.clear();
    path = *target + path.substr(next);
    next = 0;
  }
}

}  // namespace keyload
