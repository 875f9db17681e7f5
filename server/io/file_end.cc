#include "server/io/file_end.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "server/base/error.h"

namespace keyload {

absl::Status FileEndsEarly(const std::string& file, uint64_t offset, uint64_t missing) {
  return MakeError(
      Reason::kCheckpointTruncated,
      absl::StrCat(file, ": the file ends at or before offset ", offset, ": ", missing, " bytes are missing"),
      {{"file", file}, {"offset", absl::StrCat(offset)}, {"missing_bytes", absl::StrCat(missing)}});
}

absl::Status CheckFileHolds(int fd, const std::string& file, uint64_t begin, uint64_t end) {
  struct stat status;
  if (::fstat(fd, &status) != 0) return ErrnoToStatus(errno, "fstat", file);
  const uint64_t size = static_cast<uint64_t>(status.st_size);
  if (size >= end) return absl::OkStatus();
  const uint64_t first = std::max(begin, size);
  return FileEndsEarly(file, first, end - first);
}

}  // namespace keyload
