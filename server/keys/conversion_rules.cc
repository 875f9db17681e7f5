#include "server/keys/conversion_rules.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "re2/re2.h"
#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

constexpr std::string_view kConversionsField = "conversions";
constexpr std::string_view kWildcard = "*.";
constexpr size_t kMaxTargetBytes = 4096;

std::string PatternOf(std::string_view source) {
  std::string pattern;
  size_t begin = 0;
  for (size_t at; (at = source.find(kWildcard, begin)) != std::string_view::npos; begin = at + kWildcard.size()) {
    pattern.append(source.substr(begin, at - begin)).append(".*\\.");
  }
  pattern.append(source.substr(begin));
  // After a word character that is what "not before a word character" means.
  if (!source.empty() && absl::ascii_isalnum(static_cast<unsigned char>(source.back()))) pattern += "\\b";
  return pattern;
}

absl::Status CheckTarget(const re2::RE2& pattern, const std::string& source, const std::string& target) {
  std::string why;
  if (target.size() > kMaxTargetBytes) {
    why = StrCat("longer than ", kMaxTargetBytes, " bytes");
  } else if (pattern.CheckRewriteString(target, &why)) {
    return absl::OkStatus();
  }
  return MakeError(Reason::kPatternInvalid,
                   absl::StrFormat("%s: source '%s': target '%s': %s", kConversionsField, source,
                                   target.substr(0, kMaxTargetBytes / 4), why),
                   {{"field", std::string(kConversionsField)}, {"pattern", source}});
}

}  // namespace

ConversionRules::ConversionRules() = default;
ConversionRules::~ConversionRules() = default;
ConversionRules::ConversionRules(ConversionRules&&) noexcept = default;
ConversionRules& ConversionRules::operator=(ConversionRules&&) noexcept = default;

absl::StatusOr<ConversionRules> ConversionRules::Compile(std::span<const Conversion> conversions,
                                                         PatternBudget& budget) {
  ConversionRules rules;
  rules.conversions_ = conversions;
  std::string alternation;
  for (const Conversion& conversion : conversions) {
    Rule rule;
    budget.TakeTargets(conversion.targets.size());
    for (const std::string& target : conversion.targets) {
      rule.groups = std::max(rule.groups, 1 + re2::RE2::MaxSubmatch(target));
    }
    for (uint32_t i = 0; i < conversion.sources.size(); ++i) {
      const std::string text = PatternOf(conversion.sources[i]);
      KEYLOAD_ASSIGN_OR_RETURN(auto pattern, CompilePattern(kConversionsField, text, budget));
      for (const std::string& target : conversion.targets) {
        KEYLOAD_RETURN_IF_ERROR(CheckTarget(*pattern, conversion.sources[i], target));
      }
      StrAppend(&alternation, alternation.empty() ? "" : "|", GroupPattern(text));
      budget.Keep(*pattern);
      rule.sources.push_back({.pattern = std::move(pattern), .number = i});
    }
    std::stable_sort(rule.sources.begin(), rule.sources.end(), [&](const Source& a, const Source& b) {
      return conversion.sources[a.number].size() > conversion.sources[b.number].size();
    });
    rules.rules_.push_back(std::move(rule));
  }
  KEYLOAD_ASSIGN_OR_RETURN(rules.any_, PatternSet::FromAlternation(kConversionsField, alternation, budget));
  return rules;
}

std::optional<ConversionRules::Match> ConversionRules::Find(std::string_view name) const {
  if (!any_.Matches(name)) return std::nullopt;
  std::vector<re2::StringPiece> groups;
  for (uint32_t i = 0; i < rules_.size(); ++i) {
    std::optional<Match> best;
    groups.resize(rules_[i].groups);
    for (const Source& source : rules_[i].sources) {
      if (!source.pattern->Match(name, 0, name.size(), re2::RE2::UNANCHORED, groups.data(), rules_[i].groups)) continue;
      const size_t begin = groups[0].data() - name.data();
      if (best && best->begin <= begin) continue;
      best = {.conversion = i, .source = source.number, .begin = begin, .end = begin + groups[0].size(), .groups = {}};
      for (const re2::StringPiece& group : groups) best->groups.emplace_back(group.data(), group.size());
    }
    if (best) return best;
  }
  return std::nullopt;
}

std::string ConversionRules::Replaced(std::string_view name, const Match& match, size_t target) const {
  std::string made(name.substr(0, match.begin));
  const std::string_view rewrite = conversions_[match.conversion].targets[target];
  for (size_t i = 0; i < rewrite.size(); ++i) {
    if (rewrite[i] != '\\') {
      made += rewrite[i];
    } else if (const char c = rewrite[++i]; absl::ascii_isdigit(static_cast<unsigned char>(c))) {  // CheckTarget saw it
      made += match.groups[c - '0'];
    } else {
      made += c;
    }
  }
  return made.append(name.substr(match.end));
}

}  // namespace keyload
