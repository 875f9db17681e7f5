#include "server/base/whole_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {

absl::StatusOr<size_t> ReadAt(int fd, std::span<char> destination, uint64_t offset, const std::string& path) {
  size_t done = 0;
  while (done < destination.size()) {
    const ssize_t got =
        pread(fd, destination.data() + done, destination.size() - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoToStatus(errno, StrCat("pread at byte ", offset + done), path);
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return done;
}

absl::StatusOr<std::string> ReadWholeFile(int fd, const std::string& path, uint64_t limit) {
  struct stat info = {};
  if (fstat(fd, &info) != 0) return ErrnoToStatus(errno, "fstat", path);
  if (static_cast<uint64_t>(info.st_size) > limit) {
    return MakeError(Reason::kDocumentTooLarge, StrCat(path, " is over ", limit, " bytes"), {{"file", path}});
  }
  std::string bytes(info.st_size, '\0');
  KEYLOAD_ASSIGN_OR_RETURN(const size_t read, ReadAt(fd, bytes, 0, path));
  bytes.resize(read);
  return bytes;
}

}  // namespace keyload
