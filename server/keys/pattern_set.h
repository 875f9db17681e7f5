#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/request_context.h"

namespace re2 {
class RE2;
}

namespace keyload {

// What the patterns of one request and its manifest may come to together: in number, in text, in the instructions that
// RE2 compiles them to, and in memory. Confine to one thread.
class PatternBudget {
 public:
  static constexpr size_t kMostPatterns = 10'000;
  static constexpr uint64_t kMostInstructions = 100'000;
  // Of searching all patterns in all names: at worst RE2 looks at every instruction for each byte of a name.
  static constexpr uint64_t kMostSteps = 5'000'000'000'000;

  // Memory is shared out among `patterns`, roughly as many as will be kept. `context` is asked before each of them;
  // null: never.
  explicit PatternBudget(size_t patterns = 1, const RequestContext* context = nullptr);

  // To be asked before `pattern` is compiled: PATTERN_INVALID when it exceeds what is left, or the context's error.
  absl::Status Take(std::string_view pattern);
  // To be asked with what it was compiled to: PATTERN_INVALID says how much is taken.
  absl::Status TakeProgram(std::string_view field, std::string_view pattern, const re2::RE2& program);
  // To be asked before the patterns are searched in names of `name_bytes` together: PATTERN_INVALID when that could
  // take more than kMostSteps.
  absl::Status CheckWork(uint64_t name_bytes) const;
  // That one compiled pattern may use, its caches included, unless its program alone is larger.
  int64_t memory_bytes() const { return memory_bytes_; }
  // `program` stays: what it may use is counted.
  void Keep(const re2::RE2& program);
  // What all that is kept may use of the heap.
  uint64_t kept_bytes() const { return kept_bytes_; }
  // Of a name where a conversion is found, `targets` names are made: as much work as so many searches.
  void TakeTargets(size_t targets);

 private:
  const RequestContext* const context_;
  const int64_t memory_bytes_;
  size_t patterns_left_ = kMostPatterns;
  size_t bytes_left_ = 1 << 20;
  uint64_t instructions_ = 0;
  uint64_t target_steps_ = 0;  // per byte of a name
  uint64_t kept_bytes_ = 0;
};

// Searches in names that rules have changed, which may be much longer than those that PatternBudget::CheckWork counted.
// Confine to one thread.
class SearchWork {
 public:
  explicit SearchWork(const RequestContext* context) : check_(context) {}  // null: it is not asked
  // To be asked before a program of so many instructions is searched in `name`: PATTERN_INVALID when all of them come
  // to more than PatternBudget::kMostSteps, and the context's errors.
  absl::Status Take(uint64_t instructions, std::string_view name);

 private:
  PeriodicCheck check_;
  uint64_t steps_ = 0;
};

// What searching a program of so many instructions in `name` may cost, for PeriodicCheck.
uint64_t CostOfSearch(uint64_t instructions, std::string_view name);

// Compiles one pattern, silently and within the budget. `field` is where it came from, for the message: "renames".
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
  // What Matches(name) may cost, for PeriodicCheck.
  uint64_t CostOf(std::string_view name) const { return CostOfSearch(instructions_, name); }

 private:
  friend class RenameRules;
  friend class ConversionRules;
  // `alternation` is patterns that GroupPattern made, joined by '|'; empty matches nothing.
  static absl::StatusOr<PatternSet> FromAlternation(std::string_view field, std::string_view alternation,
                                                    PatternBudget& budget);

  std::unique_ptr<re2::RE2> any_;
  uint64_t instructions_ = 0;
};

}  // namespace keyload
