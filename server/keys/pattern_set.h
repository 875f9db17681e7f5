#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace re2 {
class RE2;
}

namespace keyload {

// What the patterns of one request and its manifest may come to together: 10,000 of them and 1 MiB of text.
class PatternBudget {
 public:
  static constexpr size_t kMostPatterns = 10'000;

  // PATTERN_INVALID when `pattern` exceeds what is left.
  absl::Status Take(std::string_view pattern);

 private:
  size_t patterns_left_ = kMostPatterns;
  size_t bytes_left_ = 1 << 20;
};

// Compiles one pattern, silently and with bounded memory. `field` is where it came from, for the message: "renames".
// PATTERN_INVALID names the pattern and RE2's reason; an empty pattern, which every name would match, is refused.
absl::StatusOr<std::unique_ptr<re2::RE2>> CompilePattern(std::string_view field, std::string_view pattern,
                                                         PatternBudget& budget);

// `pattern`, valid by itself, as a group that leaks nothing into what follows: no flag, no alternative, no open "\Q".
std::string GroupPattern(std::string_view pattern);

// Tells whether any of a list of patterns is found in a name, with one search. Immutable, thread-safe.
class PatternSet {
 public:
  // As CompilePattern for each pattern of both lists.
  static absl::StatusOr<PatternSet> Compile(std::string_view field, std::span<const std::string> first,
                                            std::span<const std::string> second, PatternBudget& budget);

  PatternSet();  // matches nothing
  ~PatternSet();
  PatternSet(PatternSet&&) noexcept;
  PatternSet& operator=(PatternSet&&) noexcept;

  bool empty() const { return any_ == nullptr; }
  bool Matches(std::string_view name) const;

 private:
  friend class RenameRules;
  friend class ConversionRules;
  // `alternation` is patterns that GroupPattern made, joined by '|'; empty matches nothing.
  static absl::StatusOr<PatternSet> FromAlternation(std::string_view field, std::string_view alternation);

  std::unique_ptr<re2::RE2> any_;
};

}  // namespace keyload
