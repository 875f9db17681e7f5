#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "server/config/config.h"

namespace keyload {

// Applies every setting of the TOML text `content` to `config`. BAD_REQUEST names `path`, the line and the key for a
// syntax error, an unknown or repeated key, a wrong type and a value that the setting refuses.
absl::Status ApplyConfigFile(const std::string& path, std::string_view content, Config& config);

}  // namespace keyload
