#include "server/audit/lacking_names.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_join.h"
#include "server/base/strings.h"
#include "server/checkpoint/json_checks.h"
#include "server/checkpoint/natural_order.h"

namespace keyload {
namespace {

constexpr size_t kNamesKept = 10'000;
constexpr size_t kNamesInMessage = 3;

bool IsBelow(std::string_view name, std::string_view module) {
  return name.size() > module.size() && name.starts_with(module) && name[module.size()] == '.';
}

}  // namespace

void LackingNames::Add(std::string name) {
  if (names_.size() < kNamesKept) {
    names_.push_back(std::move(name));
  } else {
    ++further_;
  }
}

Finding LackingNames::Find(std::string_view rule, absl::FunctionRef<std::string(uint64_t, std::string_view)> message) {
  std::sort(names_.begin(), names_.end(), NaturalLess);
  names_.erase(std::unique(names_.begin(), names_.end()), names_.end());
  // A module comes right before what is below it: the keys are told, the module that lacks as a whole is not.
  size_t kept = 0;
  for (size_t i = 0; i < names_.size(); ++i) {
    if (i + 1 < names_.size() && IsBelow(names_[i + 1], names_[i])) continue;
    if (kept != i) names_[kept] = std::move(names_[i]);
    ++kept;
  }
  names_.resize(kept);
  Finding finding = {.rule = std::string(rule), .message = "", .count = kept + further_, .names = {}, .lacks = true};
  for (size_t i = 0; i < std::min(kept, kNamesInFinding); ++i) finding.names.push_back(Shortened(names_[i]));
  const auto shown = finding.names.begin() + static_cast<ptrdiff_t>(std::min(finding.names.size(), kNamesInMessage));
  finding.message = message(
      finding.count, StrCat(absl::StrJoin(finding.names.begin(), shown, ", "), kept > kNamesInMessage ? ", ..." : ""));
  return finding;
}

}  // namespace keyload
