#include "server/keys/pattern_set.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "re2/re2.h"
#include "server/base/error.h"

namespace keyload {
namespace {

constexpr int64_t kPatternMemoryBytes = 2 << 20;
constexpr int64_t kAlternationMemoryBytes = 16 << 20;

absl::Status InvalidPattern(std::string_view field, std::string_view pattern, std::string_view why) {
  return MakeError(Reason::kPatternInvalid, absl::StrFormat("%s: pattern '%s': %s", field, pattern, why),
                   {{"field", std::string(field)}, {"pattern", std::string(pattern)}});
}

std::unique_ptr<re2::RE2> CompileRegex(std::string_view pattern, int64_t memory_bytes, bool captures) {
  re2::RE2::Options options;
  options.set_log_errors(false);
  options.set_max_mem(memory_bytes);
  options.set_never_capture(!captures);
  return std::make_unique<re2::RE2>(pattern, options);
}

}  // namespace

absl::Status PatternBudget::Take(std::string_view pattern) {
  if (patterns_left_ == 0 || pattern.size() > bytes_left_) {
    return MakeError(
        Reason::kPatternInvalid,
        "renames and ignore patterns: more than 10,000 or more than 1 MiB in all, those of the manifest included");
  }
  --patterns_left_;
  bytes_left_ -= pattern.size();
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<re2::RE2>> CompilePattern(std::string_view field, std::string_view pattern,
                                                         PatternBudget& budget) {
  KEYLOAD_RETURN_IF_ERROR(budget.Take(pattern));
  if (pattern.empty()) return InvalidPattern(field, pattern, "an empty pattern matches every key");
  auto compiled = CompileRegex(pattern, kPatternMemoryBytes, /*captures=*/true);
  if (!compiled->ok()) return InvalidPattern(field, pattern, compiled->error());
  return compiled;
}

std::string GroupPattern(std::string_view pattern) {
  std::string group = absl::StrFormat("(?:%s)", pattern);
  // "\Q" without "\E" quotes to the end, the closing parenthesis too, which shows as an error.
  if (pattern.find("\\Q") != std::string_view::npos && !CompileRegex(group, kPatternMemoryBytes, false)->ok()) {
    group = absl::StrFormat("(?:%s\\E)", pattern);
  }
  return group;
}

PatternSet::PatternSet() = default;
PatternSet::~PatternSet() = default;
PatternSet::PatternSet(PatternSet&&) noexcept = default;
PatternSet& PatternSet::operator=(PatternSet&&) noexcept = default;

absl::StatusOr<PatternSet> PatternSet::Compile(std::string_view field, std::span<const std::string> first,
                                               std::span<const std::string> second, PatternBudget& budget) {
  std::string alternation;
  for (const std::span<const std::string> patterns : {first, second}) {
    for (const std::string& pattern : patterns) {
      KEYLOAD_RETURN_IF_ERROR(CompilePattern(field, pattern, budget).status());
      absl::StrAppend(&alternation, alternation.empty() ? "" : "|", GroupPattern(pattern));
    }
  }
  return FromAlternation(field, alternation);
}

absl::StatusOr<PatternSet> PatternSet::FromAlternation(std::string_view field, std::string_view alternation) {
  PatternSet set;
  if (alternation.empty()) return set;
  set.any_ = CompileRegex(alternation, kAlternationMemoryBytes, /*captures=*/false);
  if (!set.any_->ok()) {
    const bool too_large = set.any_->error_code() == re2::RE2::ErrorPatternTooLarge;
    return MakeError(
        Reason::kPatternInvalid,
        absl::StrFormat("%s: the patterns together: %s", field, too_large ? "too large" : set.any_->error()),
        {{"field", std::string(field)}});
  }
  return set;
}

bool PatternSet::Matches(std::string_view name) const { return any_ != nullptr && re2::RE2::PartialMatch(name, *any_); }

}  // namespace keyload
