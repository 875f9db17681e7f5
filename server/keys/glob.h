#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace keyload {

// A set of characters, as code points.
struct CharacterSet {
  std::vector<std::pair<char32_t, char32_t>> ranges;  // from, to; ascending, with gaps between them
  bool complement = false;                            // all characters except those of the ranges

  bool Contains(char32_t character) const;
};

// One piece of a glob. A group of alternatives is kOpen, the pieces of the first, kNext, those of the second ...
// kClose.
struct GlobPiece {
  enum class Kind : uint8_t { kLiteral, kAny, kSet, kStar, kOpen, kNext, kClose };
  Kind kind = Kind::kLiteral;
  char32_t character = 0;  // of kLiteral
  CharacterSet set;        // of kSet
};

// What the globs of one selection may unfold to, beyond their text.
struct GlobBudget {
  uint64_t alternatives = 10'000;
  uint64_t range_pieces = 65'536;  // of all integers of ranges, written out
};

// Takes a glob apart. As Python's fnmatch: "*" any characters, dots included, "?" one character, "[...]" a set with "!"
// for its complement, and no escape character; besides "{a,b}" alternatives, nestable, and "{0..7}" integers, up or
// down. What is not closed is literal. Stars that follow one another are one. Takes what the glob unfolds to from
// `budget`. PATTERN_INVALID names the glob: too many alternatives, braces that nest more than 32 deep, or text that is
// not UTF-8. Linear in the glob plus its alternatives.
absl::StatusOr<std::vector<GlobPiece>> ParseGlob(std::string_view glob, GlobBudget& budget);

// The character at the beginning of `text`, which is not empty, and its length in bytes. A byte that is not UTF-8 is a
// character by itself, above all code points, so that it equals only itself.
struct DecodedCharacter {
  char32_t character = 0;
  uint32_t length = 1;
};
inline constexpr char32_t kFirstInvalid = 0x110000;
DecodedCharacter DecodeCharacter(std::string_view text);

}  // namespace keyload
