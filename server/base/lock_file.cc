#include "server/base/lock_file.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>
#include <cstring>

#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {

absl::StatusOr<UniqueFd> LockFile(const std::string& path, std::string_view taken) {
  UniqueFd lock(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock) return MakeError(Reason::kBadRequest, StrCat(path, ": ", std::strerror(errno)));
  if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0)
    return MakeError(Reason::kBadRequest, errno == EWOULDBLOCK ? taken : std::strerror(errno));
  return lock;
}

}  // namespace keyload
