#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace keyload {

// All of a file with certificates, a key or tokens, 1 MiB at most. Blocks. BAD_REQUEST names it.
absl::StatusOr<std::string> ReadCredentialFile(const std::string& path);

}  // namespace keyload
