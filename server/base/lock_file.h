#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "server/base/fd.h"

namespace keyload {

// Makes the file `path`, for this user only, where it is absent, and holds it locked against other processes until the
// descriptor is closed. Never waits. BAD_REQUEST, whose message is `taken` when another process has it, else what the
// system refused.
absl::StatusOr<UniqueFd> LockFile(const std::string& path, std::string_view taken);

}  // namespace keyload
