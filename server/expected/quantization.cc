#include "server/expected/quantization.h"

#include <algorithm>
#include <utility>

#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

// The texts of a list; null is an empty one.
absl::StatusOr<std::vector<std::string>> TextsOf(const KeyTemplate& parsed, const std::vector<Value>& values,
                                                 const std::vector<std::string>& names, std::string_view config_file) {
  std::vector<std::string> texts;
  for (const std::string& name : names) {
    const Value& value = values[*parsed.symbols.Find(name)];
    if (std::holds_alternative<std::monostate>(value)) continue;
    const ConfigValue* const* config = std::get_if<const ConfigValue*>(&value);
    const ConfigValue::List* list = config != nullptr ? (*config)->list() : nullptr;
    const bool valid = list != nullptr && std::all_of(list->begin(), list->end(),
                                                      [](const ConfigValue& item) { return item.text() != nullptr; });
    if (!valid) return ConfigError(config_file, StrCat(name, " is not a list of names"), parsed.file, 1);
    for (const ConfigValue& item : *list) texts.push_back(*item.text());
  }
  return texts;
}

absl::StatusOr<ModuleNames> NamesOf(std::vector<std::string> entries, const KeyTemplate& parsed,
                                    std::string_view config_file) {
  absl::StatusOr<ModuleNames> names = ModuleNames::Create(std::move(entries));
  if (!names.ok()) return ConfigError(config_file, ToStd(names.status().message()), parsed.file, 1);
  return names;
}

}  // namespace

absl::StatusOr<Quantization> Quantization::Create(const KeyTemplate& parsed, const ConfigValue& config,
                                                  std::string_view config_file) {
  Quantization result;
  result.parsed_ = &parsed;
  KEYLOAD_ASSIGN_OR_RETURN(result.values_, FindValues(parsed, config, config_file));
  KEYLOAD_ASSIGN_OR_RETURN(std::vector<std::string> keep,
                           TextsOf(parsed, result.values_, parsed.keep_from, config_file));
  keep.insert(keep.end(), parsed.keep.begin(), parsed.keep.end());
  KEYLOAD_ASSIGN_OR_RETURN(result.keep_, NamesOf(std::move(keep), parsed, config_file));
  if (parsed.target_from.empty()) return result;
  KEYLOAD_ASSIGN_OR_RETURN(std::vector<std::string> targets,
                           TextsOf(parsed, result.values_, parsed.target_from, config_file));
  KEYLOAD_ASSIGN_OR_RETURN(result.targets_, NamesOf(std::move(targets), parsed, config_file));
  return result;
}

bool Quantization::Replaces(std::string_view module, std::string_view class_name) const {
  const std::vector<std::string>& classes = parsed_->classes;
  if (std::find(classes.begin(), classes.end(), class_name) == classes.end()) return false;
  if (targets_ && !targets_->Lists(class_name) && !targets_->Matches(module)) return false;
  return !keep_.Matches(module);
}

std::vector<Value>& Quantization::ValuesFor(uint64_t rows, uint64_t columns, bool bias) {
  values_[parsed_->rows_slot] = static_cast<int64_t>(rows);
  values_[parsed_->columns_slot] = static_cast<int64_t>(columns);
  values_[parsed_->bias_slot] = int64_t{bias};
  return values_;
}

}  // namespace keyload
