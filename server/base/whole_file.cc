#include "server/base/whole_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {

absl::StatusOr<std::string> ReadWholeFile(int fd, const std::string& path, uint64_t limit) {
  struct stat info = {};
  if (fstat(fd, &info) != 0) return ErrnoToStatus(errno, "fstat", path);
  if (static_cast<uint64_t>(info.st_size) > limit) {
    return MakeError(Reason::kDocumentTooLarge, StrCat(path, " is over ", limit, " bytes"), {{"file", path}});
  }
  std::string bytes(info.st_size, '\0');
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t got = pread(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoToStatus(errno, "pread", path);
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  bytes.resize(done);
  return bytes;
}

}  // namespace keyload
