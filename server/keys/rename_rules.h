#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/keys/manifest.h"
#include "server/keys/name_arena.h"
#include "server/keys/pattern_set.h"

namespace keyload {

// Renames in order, each searched in the result of the one before and applied to its first occurrence. Immutable,
// thread-safe.
class RenameRules {
 public:
  // PATTERN_INVALID names the pattern or the replacement: a pattern RE2 refuses, a group that the pattern lacks, a
  // replacement over 4 KiB, or too much in all.
  static absl::StatusOr<RenameRules> Compile(std::span<const Rename> first, std::span<const Rename> second,
                                             PatternBudget& budget);

  RenameRules();  // changes nothing
  ~RenameRules();
  RenameRules(RenameRules&&) noexcept;
  RenameRules& operator=(RenameRules&&) noexcept;

  bool empty() const { return rules_.empty(); }
  // `name` itself where no rule changes it, else its new form, kept by `arena`. PATTERN_INVALID names a key that
  // becomes empty or longer than 4 KiB; MEMORY_EXHAUSTED of the arena, and what `work` says.
  absl::StatusOr<std::string_view> Apply(std::string_view name, NameArena& arena, SearchWork& work) const;
  // What finding out whether Apply changes `name` may cost, for PeriodicCheck.
  uint64_t CostOf(std::string_view name) const;

 private:
  struct Rule {
    std::unique_ptr<re2::RE2> pattern;
    uint64_t instructions = 0;  // of pattern
    std::string replacement;
  };

  std::vector<Rule> rules_;
  PatternSet any_;  // most keys match no rule: one search instead of one per rule
};

}  // namespace keyload
