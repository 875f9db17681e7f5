#pragma once

#include <string>
#include <string_view>

namespace keyload {

// "sha256:<hex>" of `bytes`.
std::string Sha256Digest(std::string_view bytes);

}  // namespace keyload
