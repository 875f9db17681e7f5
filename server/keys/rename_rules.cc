#include "server/keys/rename_rules.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "re2/re2.h"
#include "server/base/error.h"

namespace keyload {
namespace {

constexpr std::string_view kRenamesField = "renames";
// A replacement may repeat its groups, and rules chain: without these bounds a few rules make names of any size.
constexpr size_t kMaxReplacementBytes = 4096;
constexpr size_t kMaxNameBytes = 4096;
constexpr uint64_t kRulesPerUnit = 4;  // of PeriodicCheck

absl::Status CheckReplacement(const re2::RE2& pattern, const Rename& rename) {
  std::string why;
  if (rename.replacement.size() > kMaxReplacementBytes) {
    why = absl::StrCat("longer than ", kMaxReplacementBytes, " bytes");
  } else if (pattern.CheckRewriteString(rename.replacement, &why)) {
    return absl::OkStatus();
  }
  return MakeError(
      Reason::kPatternInvalid,
      absl::StrFormat("%s: pattern '%s': replacement '%s': %s", kRenamesField, rename.pattern, rename.replacement, why),
      {{"field", std::string(kRenamesField)}, {"pattern", rename.pattern}, {"replacement", rename.replacement}});
}

absl::Status CannotRename(std::string_view name, std::string_view why) {
  return MakeError(Reason::kPatternInvalid, absl::StrFormat("%s: key %s %s", kRenamesField, name, why),
                   {{"field", std::string(kRenamesField)}, {"key", std::string(name)}});
}

}  // namespace

RenameRules::RenameRules() = default;
RenameRules::~RenameRules() = default;
RenameRules::RenameRules(RenameRules&&) noexcept = default;
RenameRules& RenameRules::operator=(RenameRules&&) noexcept = default;

absl::StatusOr<RenameRules> RenameRules::Compile(std::span<const Rename> first, std::span<const Rename> second,
                                                 PatternBudget& budget) {
  RenameRules rules;
  std::string alternation;
  for (const std::span<const Rename> renames : {first, second}) {
    for (const Rename& rename : renames) {
      KEYLOAD_ASSIGN_OR_RETURN(auto pattern, CompilePattern(kRenamesField, rename.pattern, budget));
      KEYLOAD_RETURN_IF_ERROR(CheckReplacement(*pattern, rename));
      absl::StrAppend(&alternation, alternation.empty() ? "" : "|", GroupPattern(rename.pattern));
      budget.Keep(*pattern);
      const auto instructions = static_cast<uint64_t>(pattern->ProgramSize());
      rules.rules_.push_back({std::move(pattern), instructions, rename.replacement});
    }
  }
  KEYLOAD_ASSIGN_OR_RETURN(rules.any_, PatternSet::FromAlternation(kRenamesField, alternation, budget));
  return rules;
}

uint64_t RenameRules::CostOf(std::string_view name) const { return any_.CostOf(name) + rules_.size() / kRulesPerUnit; }

absl::StatusOr<std::string_view> RenameRules::Apply(std::string_view name, NameArena& arena, SearchWork& work) const {
  if (!any_.Matches(name)) return name;
  if (name.size() > kMaxNameBytes) return CannotRename(name.substr(0, 200), "...: too long to rename");
  std::string renamed(name);
  for (const Rule& rule : rules_) {
    KEYLOAD_RETURN_IF_ERROR(work.Take(rule.instructions, renamed));
    if (!re2::RE2::Replace(&renamed, *rule.pattern, rule.replacement)) continue;
    if (renamed.empty()) return CannotRename(name, "would become an empty name");
    if (renamed.size() > kMaxNameBytes) {
      return CannotRename(name, absl::StrCat("would become longer than ", kMaxNameBytes, " bytes"));
    }
  }
  if (renamed == name) return name;
  return arena.Add(renamed);
}

}  // namespace keyload
