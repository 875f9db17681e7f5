#include "server/checkpoint/directory_entries.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string>

#include "server/base/error.h"

namespace keyload {
namespace {

struct CloseDir {
  void operator()(DIR* stream) const { ::closedir(stream); }
};

}  // namespace

absl::Status VisitEntries(const OpenedPath& directory, const char* name, const RequestContext& context,
                          absl::FunctionRef<bool(const dirent&)> visit) {
  const std::string path = ModelRoots::PathIn(directory, name);
  // A descriptor of its own: closedir() closes it.
  const int fd = ::openat(directory.fd.get(), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return ErrnoToStatus(errno, "open", path);
  std::unique_ptr<DIR, CloseDir> stream(::fdopendir(fd));
  if (stream == nullptr) {
    const int error = errno;
    ::close(fd);
    return ErrnoToStatus(error, "fdopendir", path);
  }
  PeriodicCheck check(&context);
  while (true) {
    KEYLOAD_RETURN_IF_ERROR(check.Check());
    errno = 0;
    const dirent* entry = ::readdir(stream.get());
    if (entry == nullptr && errno != 0) return ErrnoToStatus(errno, "readdir", path);
    if (entry == nullptr || !visit(*entry)) return absl::OkStatus();
  }
}

}  // namespace keyload
