#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/keys/conversion.h"
#include "server/keys/pattern_set.h"

namespace keyload {

// The patterns of a manifest's conversions. Immutable, thread-safe.
class ConversionRules {
 public:
  // PATTERN_INVALID names the source or the target. `conversions` is borrowed.
  static absl::StatusOr<ConversionRules> Compile(std::span<const Conversion> conversions, PatternBudget& budget);

  ConversionRules();  // matches nothing
  ~ConversionRules();
  ConversionRules(ConversionRules&&) noexcept;
  ConversionRules& operator=(ConversionRules&&) noexcept;

  bool empty() const { return rules_.empty(); }
  std::span<const Conversion> conversions() const { return conversions_; }

  // Where a source is found in a name.
  struct Match {
    uint32_t conversion = 0;
    uint32_t source = 0;  // of that conversion
    size_t begin = 0;
    size_t end = 0;
    std::vector<std::string_view> groups;  // the whole first; no more than the targets use
  };
  // The first conversion of which a source is found; of its sources the leftmost, of those the longest.
  std::optional<Match> Find(std::string_view name) const;
  // What Find(name) may cost, for PeriodicCheck.
  uint64_t CostOf(std::string_view name) const { return any_.CostOf(name) + rules_.size(); }
  // `name` with what was found replaced by the conversion's `target`.
  std::string Replaced(std::string_view name, const Match& match, size_t target) const;

 private:
  struct Source {
    std::unique_ptr<re2::RE2> pattern;
    uint32_t number = 0;  // in Conversion::sources
  };
  struct Rule {
    std::vector<Source> sources;  // the longest first
    int groups = 1;               // submatches that the targets use, the whole included
  };

  std::span<const Conversion> conversions_;
  std::vector<Rule> rules_;
  PatternSet any_;  // most keys match none: one search instead of one per source
};

}  // namespace keyload
