#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace keyload {

// All bytes of the open file `fd`, at most `limit`; `path` is for messages. Blocks. DOCUMENT_TOO_LARGE before anything
// is read or allocated, and what ErrnoToStatus says.
absl::StatusOr<std::string> ReadWholeFile(int fd, const std::string& path, uint64_t limit);

}  // namespace keyload
