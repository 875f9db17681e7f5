#include "client/cli/baseline.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "client/cli/exit_code.h"
#include "client/cli/input_file.h"
#include "server/base/error.h"

namespace keyload::cli {
namespace {

// Calls `use` for each element of the list `name` of `object`; nothing where there is none.
template <typename Use>
void ForEach(const Json& object, const char* name, const Use& use) {
  const auto list = object.find(name);
  if (list == object.end() || !list->is_array()) return;
  for (const Json& element : *list) use(element);
}

void AddNames(const Json& object, const char* list, absl::flat_hash_set<std::string>& names) {
  ForEach(object, list, [&](const Json& name) {
    if (name.is_string()) names.insert(name.get<std::string>());
  });
}

}  // namespace

absl::StatusOr<Baseline> Baseline::Read(const std::string& path) {
  KEYLOAD_ASSIGN_OR_RETURN(const std::string text, ReadInputFile(path));
  const Json document = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  const bool is_report = document.is_object() && document.contains("missingKeys");
  const bool has_reports = document.is_object() && document.contains("checks");
  if (!is_report && !has_reports) {
    return UsageError(absl::StrFormat(
        "--baseline: %s is no report; make one with: keyload --json check DIR --names 10000 >%s", path, path));
  }
  Baseline baseline;
  if (is_report) baseline.Add(document);
  ForEach(document, "checks", [&](const Json& check) { baseline.Add(check); });
  return baseline;
}

void Baseline::Add(const Json& report) {
  if (!report.is_object()) return;
  AddNames(report, "missingKeys", missing_);
  AddNames(report, "unexpectedKeys", unexpected_);
  ForEach(report, "mismatchedKeys", [&](const Json& key) {
    if (key.is_object() && key.contains("key") && key["key"].is_string())
      mismatched_.insert(key["key"].get<std::string>());
  });
  ForEach(report, "findings", [&](const Json& finding) {
    if (!finding.is_object() || !finding.contains("rule") || !finding["rule"].is_string()) return;
    KnownFinding known;
    const auto count = finding.find("count");
    if (count != finding.end() && count->is_number_unsigned()) known.count = count->get<uint64_t>();
    AddNames(finding, "names", known.names);
    findings_.emplace(finding["rule"].get<std::string>(), std::move(known));
  });
}

bool Baseline::Has(const v1::Finding& finding) const {
  const auto [begin, end] = findings_.equal_range(finding.rule());
  return std::any_of(begin, end, [&](const auto& entry) {
    const KnownFinding& known = entry.second;
    return finding.count() <= known.count &&
           std::all_of(finding.names().begin(), finding.names().end(),
                       [&](const std::string& name) { return known.names.contains(name); });
  });
}

}  // namespace keyload::cli
