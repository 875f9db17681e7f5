#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/expected/config_value.h"
#include "server/expected/expression.h"
#include "server/expected/template_tree.h"

namespace keyload {

// One value that a template's expressions use, in the order in which they are found.
struct TemplateValue {
  std::string name;
  uint32_t line = 0;
  uint32_t slot = 0;
  std::vector<std::string> path;         // in config.json, "*" for an only member; empty: computed
  bool required = false;                 // absent or null is CONFIG_INVALID
  std::optional<Expression> expression;  // what stands for an absent or null value, or what is computed
};

// A text with ranges and the line that it is on.
struct TemplateName {
  uint32_t line = 0;
  std::vector<NamePart> parts;
};
struct TemplateCondition {
  uint32_t line = 0;
  Expression expression;
};
struct TemplateTie {
  uint32_t line = 0;
  std::optional<Expression> condition;  // absent: always
  std::string source;
  std::vector<std::string> targets;
};

// A file of templates, parsed. Of a family it says what keys its models have, of a quantization method what the tensors
// of one linear layer are instead. Immutable, thread-safe.
struct KeyTemplate {
  std::string file;
  Symbols symbols;
  std::vector<TemplateValue> values;
  std::vector<TemplateCondition> requirements;  // a config.json for which one is false is not supported
  std::vector<TreeNode> tree;
  std::vector<TemplateName> ignore_missing;
  std::vector<TemplateName> ignore_unexpected;

  // Families only.
  std::string base_model_prefix;
  std::vector<std::string> no_split_modules;
  std::map<std::string, std::string, std::less<>> heads;  // by architecture
  std::string default_head;
  std::vector<Rename> renames;
  std::vector<TemplateTie> ties;
  uint32_t head_slot = 0;

  // Quantization methods only.
  std::vector<std::string> classes;                 // of modules that it replaces
  std::vector<std::string> keep;                    // module names that it never replaces
  std::vector<std::string> keep_from, target_from;  // values that list modules: not replaced, the only ones replaced
  uint32_t rows_slot = 0, columns_slot = 0, bias_slot = 0;
};

enum class TemplateKind { kFamily, kQuantization };

// The largest template file that is read.
inline constexpr uint64_t kMaxTemplateBytes = uint64_t{1} << 20;

// TEMPLATE_INVALID names `file`, the line and the key.
absl::StatusOr<KeyTemplate> ParseTemplate(std::string_view toml, std::string_view file, TemplateKind kind);

// The values of `parsed` for `config`, by slot; those of ranges are null. Borrows texts of both. CONFIG_INVALID names
// `config_file`, the value and the template's line; CONFIG_NOT_SUPPORTED, a requirement that does not hold.
absl::StatusOr<std::vector<Value>> FindValues(const KeyTemplate& parsed, const ConfigValue& config,
                                              std::string_view config_file, std::string_view head = "");

// CONFIG_INVALID: "CONFIG_FILE: PROBLEM (TEMPLATE:LINE)".
absl::Status ConfigError(std::string_view config_file, std::string_view problem, std::string_view file, uint32_t line);

}  // namespace keyload
