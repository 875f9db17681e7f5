#include "server/access/credential_file.h"

#include <fcntl.h>

#include <cerrno>
#include <cstring>

#include "server/base/error.h"
#include "server/base/fd.h"
#include "server/base/strings.h"
#include "server/base/whole_file.h"

namespace keyload {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{1} << 20;

}  // namespace

absl::StatusOr<std::string> ReadCredentialFile(const std::string& path) {
  const auto unreadable = [&](std::string_view why) {
    return MakeError(Reason::kBadRequest, StrCat("cannot read ", path, ": ", why), {{"file", path}});
  };
  // A pipe that nobody writes to must not hold up the start.
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return unreadable(std::strerror(errno));
  absl::StatusOr<std::string> bytes = ReadWholeFile(fd.get(), path, kMaxFileBytes);
  if (!bytes.ok()) return unreadable(ToStd(bytes.status().message()));
  return bytes;
}

}  // namespace keyload
