#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace keyload {

// CHECKPOINT_TRUNCATED: `file` ends at or before `offset`, where `missing` more bytes were wanted.
absl::Status FileEndsEarly(const std::string& file, uint64_t offset, uint64_t missing);

// OK while the file has all of [begin, end); FileEndsEarly, at the first byte of it that the file lacks; IO_ERROR.
absl::Status CheckFileHolds(int fd, const std::string& file, uint64_t begin, uint64_t end);

}  // namespace keyload
