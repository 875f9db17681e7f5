#include "server/expected/module_names.h"

#include <algorithm>

#include "re2/re2.h"
#include "server/base/error.h"

namespace keyload {
namespace {

constexpr std::string_view kListField = "quantization_config";
constexpr std::string_view kPattern = "re:";
// In RE2's instructions: at worst a search takes so many steps for each byte of a name, and there may be 10^6 names.
constexpr int kLargestPatterns = 5000;

absl::Status CheckSizes(const std::vector<std::string>& patterns) {
  PatternBudget budget;
  int left = kLargestPatterns;
  for (const std::string& pattern : patterns) {
    KEYLOAD_ASSIGN_OR_RETURN(const auto compiled, CompilePattern(kListField, pattern, budget));
    left -= compiled->ProgramSize();
    if (left < 0) {
      return MakeError(Reason::kPatternInvalid, StrCat(kListField, ": its patterns are too large together"),
                       {{"field", std::string(kListField)}});
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModuleNames> ModuleNames::Create(std::vector<std::string> entries) {
  ModuleNames names;
  std::vector<std::string> patterns;
  for (std::string& entry : entries) {
    if (entry.starts_with(kPattern)) {
      patterns.push_back(StrCat("^(?:", std::string_view(entry).substr(kPattern.size()), ")"));
      continue;
    }
    const size_t components = static_cast<size_t>(std::count(entry.begin(), entry.end(), '.')) + 1;
    names.most_components_ = std::max(names.most_components_, components);
    names.entries_.insert(std::move(entry));
  }
  KEYLOAD_RETURN_IF_ERROR(CheckSizes(patterns));
  PatternBudget budget;
  KEYLOAD_ASSIGN_OR_RETURN(PatternSet set, PatternSet::Compile(kListField, patterns, {}, budget));
  names.patterns_ = std::make_shared<const PatternSet>(std::move(set));
  return names;
}

bool ModuleNames::Matches(std::string_view name) const {
  for (size_t begin = 0; begin < name.size() && !entries_.empty();) {
    size_t end = begin;
    for (size_t components = 0; components < most_components_; ++components) {
      end = std::min(name.find('.', end), name.size());
      if (Lists(name.substr(begin, end - begin))) return true;
      if (end++ == name.size()) break;
    }
    const size_t dot = name.find('.', begin);
    if (dot == std::string_view::npos) break;
    begin = dot + 1;
  }
  return patterns_->Matches(name);
}

}  // namespace keyload
