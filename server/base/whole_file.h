#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace keyload {

// Fills `destination` from `offset` on; short reads and interrupted calls go on. How many bytes there were: fewer than
// asked for at the end of the file. `path` is for messages. Blocks. What ErrnoToStatus says.
absl::StatusOr<size_t> ReadAt(int fd, std::span<char> destination, uint64_t offset, const std::string& path);

// All bytes of the open file `fd`, at most `limit`; `path` is for messages. Blocks. DOCUMENT_TOO_LARGE before anything
// is read or allocated, and what ErrnoToStatus says.
absl::StatusOr<std::string> ReadWholeFile(int fd, const std::string& path, uint64_t limit);

}  // namespace keyload
