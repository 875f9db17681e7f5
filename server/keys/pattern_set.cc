#include "server/keys/pattern_set.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "re2/re2.h"
#include "server/base/error.h"

namespace keyload {
namespace {

constexpr int64_t kMostPatternMemory = 1 << 20;
constexpr int64_t kAllPatternsMemory = 64 << 20;
constexpr int64_t kLeastMemory = 32 << 10;     // that RE2 is given for a program, and
constexpr int64_t kMemoryPerCharacter = 2048;  // for each character of its pattern: room for many states of its cache
constexpr uint64_t kStepsPerTarget = 128;      // of a conversion: making its name out of one and looking that up
constexpr uint64_t kRuleStepsPerUnit = 8192;   // of PeriodicCheck; a search is mostly far faster than its worst case
constexpr int64_t kAlternationMemoryBytes = 16 << 20;

absl::Status InvalidPattern(std::string_view field, std::string_view pattern, std::string_view why) {
  return MakeError(Reason::kPatternInvalid, absl::StrFormat("%s: pattern '%s': %s", field, pattern, why),
                   {{"field", std::string(field)}, {"pattern", std::string(pattern)}});
}

// With as much memory as its text suggests, at most `memory_bytes`, or as its program needs, at most `most_bytes`: what
// RE2 is given it may use up with its cache.
std::unique_ptr<re2::RE2> CompileRegex(std::string_view pattern, int64_t memory_bytes, int64_t most_bytes,
                                       bool captures) {
  re2::RE2::Options options;
  options.set_log_errors(false);
  options.set_never_capture(!captures);
  int64_t memory = std::min(memory_bytes, kLeastMemory + kMemoryPerCharacter * static_cast<int64_t>(pattern.size()));
  for (;; memory = std::min(2 * memory, most_bytes)) {
    options.set_max_mem(memory);
    auto compiled = std::make_unique<re2::RE2>(pattern, options);
    if (compiled->error_code() != re2::RE2::ErrorPatternTooLarge || memory >= most_bytes) return compiled;
  }
}

}  // namespace

PatternBudget::PatternBudget(size_t patterns, const RequestContext* context)
    : context_(context),
      memory_bytes_(std::min(kAllPatternsMemory / static_cast<int64_t>(std::clamp<size_t>(patterns, 1, kMostPatterns)),
                             kMostPatternMemory)) {}

void PatternBudget::Keep(const re2::RE2& program) { kept_bytes_ += static_cast<uint64_t>(program.options().max_mem()); }

void PatternBudget::TakeTargets(size_t targets) { target_steps_ = std::max(target_steps_, targets * kStepsPerTarget); }

absl::Status PatternBudget::Take(std::string_view pattern) {
  if (patterns_left_ == 0 || pattern.size() > bytes_left_) {
    return MakeError(
        Reason::kPatternInvalid,
        "renames and ignore patterns: more than 10,000 or more than 1 MiB in all, those of the manifest included");
  }
  --patterns_left_;
  bytes_left_ -= pattern.size();
  return context_ == nullptr ? absl::OkStatus() : context_->Check();
}

absl::Status PatternBudget::TakeProgram(std::string_view field, std::string_view pattern, const re2::RE2& program) {
  instructions_ += static_cast<uint64_t>(program.ProgramSize());
  if (instructions_ <= kMostInstructions) return absl::OkStatus();
  const size_t count = kMostPatterns - patterns_left_;
  return MakeError(
      Reason::kPatternInvalid,
      absl::StrCat("renames, conversions and ignore patterns: the first ", count, " come to ", instructions_,
                   " instructions, the last of them, of ", std::string(field), ", to ", program.ProgramSize(),
                   "; at most ", kMostInstructions,
                   " are taken, those of the manifest included: classes such as \\pL and repetitions such as {60} are "
                   "large, the rest of a pattern is small"),
      {{"field", std::string(field)},
       {"pattern", std::string(pattern.substr(0, kNameInMessage))},
       {"instructions", absl::StrCat(instructions_)},
       {"limit_instructions", absl::StrCat(kMostInstructions)}});
}

absl::Status PatternBudget::CheckWork(uint64_t name_bytes) const {
  const uint64_t per_byte = instructions_ + target_steps_;
  if (name_bytes == 0 || per_byte <= kMostSteps / name_bytes) return absl::OkStatus();
  return MakeError(
      Reason::kPatternInvalid,
      absl::StrCat("renames, conversions and ignore patterns: they come to ", per_byte,
                   " instructions, targets included, to be searched in ", name_bytes, " bytes of names; at most ",
                   kMostSteps, " of one times the other are taken: give fewer or simpler patterns"),
      {{"instructions", absl::StrCat(per_byte)},
       {"name_bytes", absl::StrCat(name_bytes)},
       {"limit_steps", absl::StrCat(kMostSteps)}});
}

absl::Status SearchWork::Take(uint64_t instructions, std::string_view name) {
  steps_ += instructions * name.size();
  if (steps_ <= PatternBudget::kMostSteps) return check_.Check(CostOfSearch(instructions, name));
  return MakeError(
      Reason::kPatternInvalid,
      absl::StrCat("renames: searching the names that they make takes more than ", PatternBudget::kMostSteps,
                   " instructions in all: give fewer or simpler renames, or such as make shorter names"),
      {{"limit_steps", absl::StrCat(PatternBudget::kMostSteps)}});
}

uint64_t CostOfSearch(uint64_t instructions, std::string_view name) {
  return 1 + instructions * name.size() / kRuleStepsPerUnit;
}

absl::StatusOr<std::unique_ptr<re2::RE2>> CompilePattern(std::string_view field, std::string_view pattern,
                                                         PatternBudget& budget) {
  KEYLOAD_RETURN_IF_ERROR(budget.Take(pattern));
  if (pattern.empty()) return InvalidPattern(field, pattern, "an empty pattern matches every key");
  auto compiled = CompileRegex(pattern, budget.memory_bytes(), kMostPatternMemory, /*captures=*/true);
  if (!compiled->ok()) return InvalidPattern(field, pattern, compiled->error());
  KEYLOAD_RETURN_IF_ERROR(budget.TakeProgram(field, pattern, *compiled));
  return compiled;
}

std::string GroupPattern(std::string_view pattern) {
  std::string group = absl::StrFormat("(?:%s)", pattern);
  // "\Q" without "\E" quotes to the end, the closing parenthesis too, which shows as an error.
  if (pattern.find("\\Q") != std::string_view::npos &&
      !CompileRegex(group, kMostPatternMemory, kMostPatternMemory, /*captures=*/false)->ok()) {
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
  return FromAlternation(field, alternation, budget);
}

absl::StatusOr<PatternSet> PatternSet::FromAlternation(std::string_view field, std::string_view alternation,
                                                       PatternBudget& budget) {
  PatternSet set;
  if (alternation.empty()) return set;
  set.any_ = CompileRegex(alternation, kAlternationMemoryBytes, kAlternationMemoryBytes, /*captures=*/false);
  if (!set.any_->ok()) {
    const bool too_large = set.any_->error_code() == re2::RE2::ErrorPatternTooLarge;
    return MakeError(
        Reason::kPatternInvalid,
        absl::StrFormat("%s: the patterns together: %s", field, too_large ? "too large" : set.any_->error()),
        {{"field", std::string(field)}});
  }
  budget.Keep(*set.any_);
  set.instructions_ = static_cast<uint64_t>(set.any_->ProgramSize());
  return set;
}

bool PatternSet::Matches(std::string_view name) const { return any_ != nullptr && re2::RE2::PartialMatch(name, *any_); }

}  // namespace keyload
