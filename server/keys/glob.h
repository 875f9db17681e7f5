#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace keyload {

// The RE2 pattern that matches exactly what `glob` matches, for a match of the whole name with '.' matching newlines
// too. As Python's fnmatch: "*" any characters, dots included, "?" one character, "[...]" a set with "!" for its
// complement, and no escape character; besides "{a,b}" alternatives, nestable, and "{0..7}" integers, up or down. What
// is not closed is literal. Takes what the glob has of alternatives from `alternatives_left`; PATTERN_INVALID names the
// glob when they do not suffice or braces nest more than 32 deep. Linear in the glob plus its alternatives.
absl::StatusOr<std::string> GlobToRegex(std::string_view glob, uint64_t& alternatives_left);

}  // namespace keyload
