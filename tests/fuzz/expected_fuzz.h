#pragma once

#include <string_view>

namespace keyload {

// Derive expected keys from any bytes, and abort if what was accepted breaks a promise or what was refused has another
// reason than it may have. The environment's KEYLOAD_SOURCE_DIR has the built-in templates.
void FuzzConfigJson(std::string_view json);
void FuzzTemplate(std::string_view toml);

}  // namespace keyload
