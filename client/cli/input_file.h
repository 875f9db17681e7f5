#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace keyload::cli {

// The bytes of a file of the caller's; UsageError that names it if it cannot be read.
absl::StatusOr<std::string> ReadInputFile(const std::string& path);

// A manifest file as a binary ModelManifest: a file whose first character other than white space is "{" is JSON
// (proto3's) and is converted, any other is taken to be binary and not looked at. UsageError if the JSON does not fit.
absl::StatusOr<std::string> ReadManifestFile(const std::string& path);

// Names, one a line; a byte order mark, carriage returns and empty lines are dropped. UsageError says what a file is
// that is no list.
absl::StatusOr<std::vector<std::string>> ReadKeyFile(const std::string& path);

}  // namespace keyload::cli
