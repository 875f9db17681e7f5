#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace keyload {

// Length of the UTF-8 sequence that starts `text`; 0 if none does.
size_t Utf8SequenceLength(std::string_view text);

// Whether the whole of `text` is UTF-8. Names from outside must be: protobuf's strings can carry nothing else, so other
// bytes would be lost, or would make a record unreadable, later on.
bool IsUtf8(std::string_view text);

// `text` with U+FFFD in the place of every byte that belongs to no UTF-8 sequence.
std::string ToUtf8(std::string_view text);

}  // namespace keyload
