#include "client/cli/output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_format.h"
#include "client/cli/exit_code.h"
#include "server/base/error.h"

namespace keyload::cli {
namespace {

absl::Status NoFile(const std::string& path) {
  return UsageError(absl::StrFormat("%s: no file can be made there: %s", path, std::strerror(errno)));
}

}  // namespace

absl::Status DiskError(const std::string& path, const char* operation) {
  return absl::InternalError(absl::StrFormat("%s: %s: %s", path, operation, std::strerror(errno)));
}

absl::Status CheckReplaceable(const std::string& path) {
  struct stat there = {};
  if (::lstat(path.c_str(), &there) == 0 && !S_ISREG(there.st_mode)) {
    return UsageError(absl::StrFormat("%s: exists and is no regular file", path));
  }
  return absl::OkStatus();
}

absl::Status CheckWritable(const std::string& path) {
  KEYLOAD_RETURN_IF_ERROR(CheckReplaceable(path));
  const std::filesystem::path directory = std::filesystem::path(path).parent_path();
  if (::faccessat(AT_FDCWD, directory.empty() ? "." : directory.c_str(), W_OK | X_OK, AT_EACCESS) != 0)
    return NoFile(path);
  return absl::OkStatus();
}

absl::StatusOr<std::pair<UniqueFd, std::string>> MakeTemporary(const std::string& path) {
  std::string name = path + ".XXXXXX";
  UniqueFd fd(::mkostemp(name.data(), O_CLOEXEC));
  if (!fd) return NoFile(path);
  return std::make_pair(std::move(fd), std::move(name));
}

absl::Status WriteAll(int fd, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return DiskError(path, "write");
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status ReplaceFile(const std::string& path, absl::FunctionRef<absl::Status(int fd)> write) {
  KEYLOAD_RETURN_IF_ERROR(CheckReplaceable(path));
  KEYLOAD_ASSIGN_OR_RETURN(auto temporary, MakeTemporary(path));
  auto& [fd, name] = temporary;
  absl::Status status = write(fd.get());
  if (status.ok() && ::fchmod(fd.get(), 0644) != 0) status = DiskError(path, "chmod");
  if (status.ok() && ::fsync(fd.get()) != 0) status = DiskError(path, "sync");
  if (status.ok() && ::rename(name.c_str(), path.c_str()) != 0) status = DiskError(path, "rename");
  if (!status.ok()) ::unlink(name.c_str());
  return status;
}

}  // namespace keyload::cli
