#pragma once

#include <string>
#include <string_view>

namespace keyload {

// Longest tensor name that is accepted, in bytes.
inline constexpr size_t kMaxKeyBytes = 4096;

// Why `key` cannot be a tensor's name, or null. A string that came through escapes may still hold NUL or half a
// surrogate pair.
const char* KeyProblem(std::string_view key);

// `text` for a message: at most 512 bytes, cut between characters, with "..." if cut.
std::string Shortened(std::string_view text);

}  // namespace keyload
