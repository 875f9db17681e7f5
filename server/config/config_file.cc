#include "server/config/config_file.h"

#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/base/error.h"
#include "server/config/settings.h"

#define TOML_EXCEPTIONS 0
#define TOML_HEADER_ONLY 1
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

namespace keyload {
namespace {

absl::Status FileError(const std::string& path, const toml::source_region& where, std::string_view key,
                       std::string_view why) {
  const std::string line = absl::StrCat(where.begin.line);
  return MakeError(Reason::kBadRequest, absl::StrFormat("%s:%s: %s%s%s", path, line, key, key.empty() ? "" : ": ", why),
                   {{"file", path}, {"line", line}, {"key", std::string(key)}});
}

std::string_view ExpectedType(SettingKind kind) {
  switch (kind) {
    case SettingKind::kText:
      return "a string";
    case SettingKind::kSize:
      return "a string such as \"20GiB\", or an integer";
    case SettingKind::kCount:
      return "an integer";
    case SettingKind::kList:
      return "an array of strings";
    case SettingKind::kSwitch:
      return "true or false";
  }
  return "";
}

// The value as flags would give it; nullopt when its type is not the setting's.
std::optional<std::vector<std::string>> ToText(const toml::node& node, SettingKind kind) {
  if (kind == SettingKind::kList) {
    const toml::array* array = node.as_array();
    if (array == nullptr) return std::nullopt;
    std::vector<std::string> values;
    for (const toml::node& element : *array) {
      if (!element.is_string()) return std::nullopt;
      values.push_back(element.as_string()->get());
    }
    return values;
  }
  if (kind == SettingKind::kSwitch) {
    if (!node.is_boolean()) return std::nullopt;
    return std::vector<std::string>{node.as_boolean()->get() ? "true" : "false"};
  }
  if (kind != SettingKind::kCount && node.is_string()) return std::vector<std::string>{node.as_string()->get()};
  if (kind != SettingKind::kText && node.is_integer()) {
    return std::vector<std::string>{absl::StrCat(node.as_integer()->get())};
  }
  return std::nullopt;
}

const Setting* FindSetting(std::string_view key) {
  for (const Setting& setting : AllSettings()) {
    if (setting.key == key) return &setting;
  }
  return nullptr;
}

}  // namespace

absl::Status ApplyConfigFile(const std::string& path, std::string_view content, Config& config) {
  const toml::parse_result parsed = toml::parse(content, path);
  if (!parsed) return FileError(path, parsed.error().source(), "", parsed.error().description());

  for (const auto& [toml_key, node] : parsed.table()) {
    const std::string_view key = toml_key.str();
    const Setting* setting = FindSetting(key);
    if (setting == nullptr) return FileError(path, toml_key.source(), key, "unknown key");
    const std::optional<std::vector<std::string>> values = ToText(node, setting->kind);
    if (!values.has_value()) {
      return FileError(path, toml_key.source(), key, absl::StrFormat("expected %s", ExpectedType(setting->kind)));
    }
    if (const absl::Status status = setting->apply(*values, config); !status.ok()) {
      return FileError(path, toml_key.source(), key, std::string(status.message()));
    }
  }
  return absl::OkStatus();
}

}  // namespace keyload
