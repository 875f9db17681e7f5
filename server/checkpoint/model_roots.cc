#include "server/checkpoint/model_roots.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <memory>

#include "absl/strings/str_format.h"
#include "server/base/error.h"

namespace keyload {
namespace {

constexpr int kMaxSymlinks = 40;  // as the kernel's own limit

UniqueFd OpenRetrying(const char* path, int flags, int directory = AT_FDCWD) {
  int fd;
  do {
    fd = ::openat(directory, path, flags | O_CLOEXEC);
  } while (fd < 0 && errno == EINTR);
  return UniqueFd(fd);
}

std::string DescriptorLink(const UniqueFd& fd) { return absl::StrFormat("/proc/self/fd/%d", fd.get()); }

// Where the object behind `fd` is; empty if the kernel does not tell.
std::string ResolvedPath(const UniqueFd& fd) {
  char buffer[PATH_MAX];
  const ssize_t length = ::readlink(DescriptorLink(fd).c_str(), buffer, sizeof(buffer));
  if (length <= 0 || length == sizeof(buffer) || buffer[0] != '/') return "";
  return std::string(buffer, static_cast<size_t>(length));
}

absl::Status CannotOpen(int error, const std::string& path) {
  return Annotate(ErrnoToStatus(error, "open", path), "cannot open", {{"path", path}});
}

absl::Status CheckRequested(std::string_view path) {
  std::string_view problem;
  if (path.empty()) {
    problem = "the path is empty";
  } else if (path.find('\0') != std::string_view::npos) {
    problem = "the path has a NUL in it";
  } else if (path.front() != '/') {
    problem = "the path is not absolute";
  } else if (path.size() >= PATH_MAX) {
    problem = "the path is too long";
  } else {
    return absl::OkStatus();
  }
  const std::string shown(path.substr(0, std::min<size_t>(path.find('\0'), 512)));
  return MakeError(Reason::kBadRequest, absl::StrFormat("\"%s\": %s", shown, problem), {{"path", shown}});
}

}  // namespace

absl::StatusOr<ModelRoots> ModelRoots::Create(const std::vector<std::string>& roots) {
  ModelRoots result;
  for (const std::string& root : roots) {
    std::unique_ptr<char, decltype(&std::free)> resolved(::realpath(root.c_str(), nullptr), &std::free);
    if (resolved == nullptr) return Annotate(ErrnoToStatus(errno, "realpath", root), "model root", {{"path", root}});
    struct stat status;
    if (::stat(resolved.get(), &status) != 0) return ErrnoToStatus(errno, "stat", root);
    if (!S_ISDIR(status.st_mode)) {
      return MakeError(Reason::kBadRequest, absl::StrFormat("model root %s is not a directory", root),
                       {{"path", root}});
    }
    result.roots_.emplace_back(resolved.get());
  }
  return result;
}

absl::StatusOr<OpenedPath> ModelRoots::Open(std::string_view path) const {
  KEYLOAD_RETURN_IF_ERROR(CheckRequested(path));
  const std::string requested(path);
  if (roots_.empty()) return NotAllowed(requested);

  // O_PATH has no side effect on what is opened, be it a FIFO or a device.
  const UniqueFd handle = OpenRetrying(requested.c_str(), O_PATH);
  if (!handle) {
    const int error = errno;
    if (!StopsInside(requested)) return NotAllowed(requested);
    return CannotOpen(error, requested);
  }
  return OpenChecked(handle, [&requested] { return requested; });
}

absl::StatusOr<OpenedPath> ModelRoots::OpenIn(const OpenedPath& directory, const std::string& name) const {
  const auto path_in = [&] { return PathIn(directory, name); };
  if (roots_.empty()) return NotAllowed(path_in());
  const UniqueFd handle = OpenRetrying(name.c_str(), O_PATH, directory.fd.get());
  if (!handle) {
    const int error = errno;
    const std::string path = path_in();
    // By the descriptor: the directory's path may lead to another one by now.
    if (!StopsInside(absl::StrFormat("%s/%s", DescriptorLink(directory.fd), name))) return NotAllowed(path);
    return CannotOpen(error, path);
  }
  return OpenChecked(handle, path_in);
}

std::string ModelRoots::PathIn(const OpenedPath& directory, std::string_view name) {
  return absl::StrFormat("%s/%s", directory.resolved == "/" ? "" : directory.resolved, name);
}

absl::StatusOr<OpenedPath> ModelRoots::OpenChecked(const UniqueFd& handle,
                                                   absl::FunctionRef<std::string()> path) const {
  OpenedPath opened;
  opened.resolved = ResolvedPath(handle);
  if (!Contains(opened.resolved)) return NotAllowed(path());

  struct stat status;
  if (::fstat(handle.get(), &status) != 0) return ErrnoToStatus(errno, "fstat", path());
  opened.is_directory = S_ISDIR(status.st_mode);
  if (!opened.is_directory && !S_ISREG(status.st_mode)) {
    return MakeError(Reason::kBadRequest, absl::StrFormat("%s is neither a file nor a directory", path()),
                     {{"path", path()}});
  }
  opened.fd = OpenRetrying(DescriptorLink(handle).c_str(), O_RDONLY);
  if (!opened.fd) {
    const int error = errno;
    return CannotOpen(error, path());
  }
  return opened;
}

absl::Status ModelRoots::NotAllowed(const std::string& path) const {
  const char* why = roots_.empty() ? "no path is allowed: the server has no --model-root"
                                   : "the path leads outside the directories given by --model-root";
  return MakeError(Reason::kPathNotAllowed, absl::StrFormat("%s: %s", path, why), {{"path", path}});
}

bool ModelRoots::Contains(std::string_view resolved) const {
  return std::any_of(roots_.begin(), roots_.end(), [&](const std::string& root) {
    if (root == "/") return resolved.starts_with('/');
    return resolved.starts_with(root) && (resolved.size() == root.size() || resolved[root.size()] == '/');
  });
}

bool ModelRoots::StopsInside(std::string path) const {
  bool always_inside = true;
  for (int links = 0; links < kMaxSymlinks && path.size() < 2 * PATH_MAX; ++links) {
    size_t cut = path.size();
    UniqueFd prefix = OpenRetrying(path.c_str(), O_PATH);
    while (!prefix && cut > 0) {
      cut = path.rfind('/', cut - 1);
      prefix = OpenRetrying(cut == 0 ? "/" : path.substr(0, cut).c_str(), O_PATH);
    }
    const std::string resolved = ResolvedPath(prefix);
    always_inside = always_inside && Contains(resolved);
    const size_t next = path.find_first_not_of('/', cut);
    if (next == std::string::npos) return Contains(resolved);
    const size_t end = std::min(path.find('/', next), path.size());
    char target[PATH_MAX];
    const ssize_t length = ::readlinkat(prefix.get(), path.substr(next, end - next).c_str(), target, sizeof(target));
    if (length <= 0) return Contains(resolved);  // not a symlink: this is what is missing, or may not be read
    const std::string followed(target, static_cast<size_t>(length));
    path = (followed[0] == '/' ? followed : absl::StrFormat("%s/%s", resolved, followed)) + path.substr(end);
  }
  return always_inside;  // a link that leads to itself
}

}  // namespace keyload
