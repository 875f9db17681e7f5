#pragma once

#include <string_view>

namespace keyload {

// Parse any bytes and abort if what was accepted breaks the parser's promises.
void FuzzSafetensorsHeader(std::string_view json);
void FuzzIndexFile(std::string_view json);

}  // namespace keyload
