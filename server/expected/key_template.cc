#include "server/expected/key_template.h"

#include <algorithm>

#include "absl/strings/str_split.h"
#include "server/base/error.h"
#include "server/base/strings.h"

#define TOML_EXCEPTIONS 0
#define TOML_HEADER_ONLY 1
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

namespace keyload {
namespace {

constexpr std::string_view kRequired = "required";

class TemplateReader {
 public:
  TemplateReader(std::string_view file, TemplateKind kind) : family_(kind == TemplateKind::kFamily) {
    result_.file = std::string(file);
  }

  absl::StatusOr<KeyTemplate> Read(std::string_view text) {
    const toml::parse_result parsed = toml::parse(text, result_.file);
    if (!parsed) return TemplateError(result_.file, parsed.error().source().begin.line, parsed.error().description());
    const toml::table& root = parsed.table();
    KEYLOAD_RETURN_IF_ERROR(CheckKeys(root));
    if (family_) {
      result_.head_slot = *result_.symbols.Define("head");
      KEYLOAD_RETURN_IF_ERROR(ReadFamily(root));
    } else {
      KEYLOAD_RETURN_IF_ERROR(ReadQuantization(root));
    }
    KEYLOAD_RETURN_IF_ERROR(ReadValues(root));
    KEYLOAD_RETURN_IF_ERROR(ReadConditions(root));
    KEYLOAD_RETURN_IF_ERROR(ReadNames(root["ignore_missing"], result_.ignore_missing));
    KEYLOAD_RETURN_IF_ERROR(ReadNames(root["ignore_unexpected"], result_.ignore_unexpected));
    KEYLOAD_RETURN_IF_ERROR(ReadTies(root));
    KEYLOAD_RETURN_IF_ERROR(ReadTree(root));
    return std::move(result_);
  }

 private:
  absl::Status Problem(const toml::node& node, std::string_view what) const {
    return TemplateError(result_.file, node.source().begin.line, what);
  }

  absl::Status CheckKeys(const toml::table& root) const {
    static constexpr std::string_view kBoth[] = {"config", "computed",       "supported",
                                                 "tree",   "ignore_missing", "ignore_unexpected"};
    static constexpr std::string_view kFamily[] = {"base_model_prefix", "no_split_modules", "heads",
                                                   "default_head",      "renames",          "tied"};
    static constexpr std::string_view kQuantization[] = {"classes", "keep", "keep_from", "target_from"};
    const auto is_in = [](const auto& keys, std::string_view key) {
      return std::find(std::begin(keys), std::end(keys), key) != std::end(keys);
    };
    for (const auto& [key, node] : root) {
      const bool known =
          is_in(kBoth, key.str()) || (family_ ? is_in(kFamily, key.str()) : is_in(kQuantization, key.str()));
      if (!known) return TemplateError(result_.file, key.source().begin.line, StrCat(key.str(), ": unknown key"));
    }
    return absl::OkStatus();
  }

  absl::Status ReadText(toml::node_view<const toml::node> view, std::string& text) const {
    if (!view) return absl::OkStatus();
    if (!view.is_string()) return Problem(*view.node(), "expected a string");
    text = view.as_string()->get();
    return absl::OkStatus();
  }
  absl::Status ReadTexts(toml::node_view<const toml::node> view, std::vector<std::string>& texts) const {
    if (!view) return absl::OkStatus();
    if (!view.is_array()) return Problem(*view.node(), "expected a list of strings");
    for (const toml::node& node : *view.as_array()) {
      if (!node.is_string()) return Problem(node, "expected a string");
      texts.push_back(node.as_string()->get());
    }
    return absl::OkStatus();
  }
  absl::StatusOr<Expression> ReadExpression(const toml::node& node) const {
    std::string text;
    if (node.is_string()) {
      text = node.as_string()->get();
    } else if (node.is_integer()) {
      text = StrCat(node.as_integer()->get());
    } else if (node.is_boolean()) {
      text = node.as_boolean()->get() ? "true" : "false";
    } else {
      return Problem(node, "expected an expression: a string, a whole number, true or false");
    }
    absl::StatusOr<Expression> expression = Expression::Parse(text, result_.symbols);
    if (!expression.ok()) return Problem(node, ToStd(expression.status().message()));
    return expression;
  }

  absl::Status ReadFamily(const toml::table& root) {
    KEYLOAD_RETURN_IF_ERROR(ReadText(root["base_model_prefix"], result_.base_model_prefix));
    KEYLOAD_RETURN_IF_ERROR(ReadTexts(root["no_split_modules"], result_.no_split_modules));
    KEYLOAD_RETURN_IF_ERROR(ReadText(root["default_head"], result_.default_head));
    if (const toml::node* heads = root.get("heads")) {
      if (!heads->is_table()) return Problem(*heads, "heads: expected a table of architecture = head");
      for (const auto& [architecture, head] : *heads->as_table()) {
        if (!head.is_string()) return Problem(head, "expected a string");
        result_.heads.emplace(architecture.str(), head.as_string()->get());
      }
    }
    if (const toml::node* renames = root.get("renames")) {
      if (!renames->is_array()) return Problem(*renames, "renames: expected a list of [pattern, replacement]");
      for (const toml::node& node : *renames->as_array()) {
        std::vector<std::string> pair;
        KEYLOAD_RETURN_IF_ERROR(ReadTexts(toml::node_view<const toml::node>(&node), pair));
        if (pair.size() != 2) return Problem(node, "expected [pattern, replacement]");
        result_.renames.push_back({.pattern = pair[0], .replacement = pair[1]});
      }
    }
    return absl::OkStatus();
  }

  absl::Status ReadQuantization(const toml::table& root) {
    KEYLOAD_RETURN_IF_ERROR(ReadTexts(root["classes"], result_.classes));
    KEYLOAD_RETURN_IF_ERROR(ReadTexts(root["keep"], result_.keep));
    KEYLOAD_RETURN_IF_ERROR(ReadTexts(root["keep_from"], result_.keep_from));
    return ReadTexts(root["target_from"], result_.target_from);
  }

  // In the order in which they are written: an expression may use the values above it.
  absl::Status ReadValues(const toml::table& root) {
    struct Entry {
      const toml::key* key;
      const toml::node* node;
      bool computed;
    };
    std::vector<Entry> entries;
    for (const bool computed : {false, true}) {
      const toml::node* table = root.get(computed ? "computed" : "config");
      if (table == nullptr) continue;
      if (!table->is_table()) return Problem(*table, "expected a table");
      for (const auto& [key, node] : *table->as_table()) entries.push_back({&key, &node, computed});
    }
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
      const auto& x = a.key->source().begin;
      const auto& y = b.key->source().begin;
      return std::pair(x.line, x.column) < std::pair(y.line, y.column);
    });
    for (const Entry& entry : entries) KEYLOAD_RETURN_IF_ERROR(ReadValue(*entry.key, *entry.node, entry.computed));
    for (const std::vector<std::string>* names : {&result_.keep_from, &result_.target_from}) {
      for (const std::string& name : *names) {
        if (!result_.symbols.Find(name)) return Problem(root, StrCat(name, " is no value of this template"));
      }
    }
    return absl::OkStatus();
  }

  // NAME = DEFAULT, or NAME = { at = "PATH.IN.CONFIG", default = DEFAULT }.
  absl::Status ReadValue(const toml::key& key, const toml::node& given, bool computed) {
    TemplateValue value = {.name = std::string(key.str()), .line = static_cast<uint32_t>(key.source().begin.line)};
    std::string path = value.name;
    const toml::node* expression = &given;
    if (const toml::table* table = given.as_table(); table != nullptr && !computed) {
      expression = table->get("default");
      if (expression == nullptr || table->get("at") == nullptr || table->size() != 2)
        return Problem(given, StrCat(value.name, ": expected { at = PATH, default = VALUE }"));
      KEYLOAD_RETURN_IF_ERROR(ReadText((*table)["at"], path));
    }
    if (!computed) value.path = absl::StrSplit(path, '.');
    value.required = !computed && expression->is_string() && expression->as_string()->get() == kRequired;
    if (!value.required) {
      KEYLOAD_ASSIGN_OR_RETURN(value.expression, ReadExpression(*expression));
    }
    const std::optional<uint32_t> slot = result_.symbols.Define(value.name);
    if (!slot) return TemplateError(result_.file, value.line, StrCat(value.name, " has a value already"));
    value.slot = *slot;
    result_.values.push_back(std::move(value));
    return absl::OkStatus();
  }

  absl::Status ReadConditions(const toml::table& root) {
    const toml::node* supported = root.get("supported");
    if (supported == nullptr) return absl::OkStatus();
    if (!supported->is_array()) return Problem(*supported, "supported: expected a list of expressions");
    for (const toml::node& node : *supported->as_array()) {
      KEYLOAD_ASSIGN_OR_RETURN(Expression expression, ReadExpression(node));
      result_.requirements.push_back({static_cast<uint32_t>(node.source().begin.line), std::move(expression)});
    }
    return absl::OkStatus();
  }

  absl::Status ReadNames(toml::node_view<const toml::node> view, std::vector<TemplateName>& names) {
    if (!view) return absl::OkStatus();
    if (!view.is_array()) return Problem(*view.node(), "expected a list of strings");
    for (const toml::node& node : *view.as_array()) {
      if (!node.is_string()) return Problem(node, "expected a string");
      std::vector<std::string> range_names;
      absl::StatusOr<std::vector<NamePart>> parts = ParseName(node.as_string()->get(), result_.symbols, range_names);
      if (!parts.ok()) return Problem(node, ToStd(parts.status().message()));
      for (const std::string& name : range_names) result_.symbols.Hide(name);
      names.push_back({static_cast<uint32_t>(node.source().begin.line), *std::move(parts)});
    }
    return absl::OkStatus();
  }

  absl::Status ReadTies(const toml::table& root) {
    const toml::node* tied = root.get("tied");  // families only
    if (tied == nullptr) return absl::OkStatus();
    if (!tied->is_array()) return Problem(*tied, "tied: expected a list of tables");
    for (const toml::node& node : *tied->as_array()) {
      const toml::table* group = node.as_table();
      if (group == nullptr) return Problem(node, "expected a table of source, targets and if");
      TemplateTie tie = {.line = static_cast<uint32_t>(node.source().begin.line)};
      for (const auto& [key, value] : *group) {
        if (key == "if") {
          KEYLOAD_ASSIGN_OR_RETURN(tie.condition, ReadExpression(value));
        } else if (key != "source" && key != "targets") {
          return Problem(value, StrCat(key.str(), ": unknown key"));
        }
      }
      KEYLOAD_RETURN_IF_ERROR(ReadText((*group)["source"], tie.source));
      KEYLOAD_RETURN_IF_ERROR(ReadTexts((*group)["targets"], tie.targets));
      result_.ties.push_back(std::move(tie));
    }
    return absl::OkStatus();
  }

  absl::Status ReadTree(const toml::table& root) {
    if (!family_) {  // what is known of one layer: the tree alone may use it
      for (const auto& [name, slot] :
           {std::pair("rows", &result_.rows_slot), std::pair("columns", &result_.columns_slot),
            std::pair("bias", &result_.bias_slot)}) {
        const std::optional<uint32_t> defined = result_.symbols.Define(name);
        if (!defined) return Problem(root, StrCat("config: ", name, " is the layer's, give the value another name"));
        *slot = *defined;
      }
    }
    const toml::node* tree = root.get("tree");
    if (tree == nullptr || !tree->is_string())
      return Problem(tree != nullptr ? *tree : root, "tree: expected a text that names the keys");
    // The text of a literal string begins on the line after its quotes.
    KEYLOAD_ASSIGN_OR_RETURN(result_.tree, ParseTree(tree->as_string()->get(), result_.file,
                                                     tree->source().begin.line + 1, result_.symbols));
    return absl::OkStatus();
  }

  const bool family_;
  KeyTemplate result_;
};

// The member `name` of an object, "*" of one that has no other.
const ConfigValue* FindMember(const ConfigValue& config, std::string_view name) {
  if (name != "*") return config.Find(name);
  const ConfigValue::Object* members = config.object();
  return members != nullptr && members->size() == 1 ? &members->front().second : nullptr;
}

const ConfigValue* FindPath(const ConfigValue& config, const std::vector<std::string>& path) {
  const ConfigValue* value = &config;
  for (const std::string& name : path) {
    if (value != nullptr) value = FindMember(*value, name);
  }
  return value;
}

}  // namespace

absl::Status ConfigError(std::string_view config_file, std::string_view problem, std::string_view file, uint32_t line) {
  return MakeError(Reason::kConfigInvalid, StrCat(config_file, ": ", problem, " (", file, ":", line, ")"),
                   {{"file", std::string(config_file)}, {"template", StrCat(file, ":", line)}});
}

absl::StatusOr<KeyTemplate> ParseTemplate(std::string_view toml, std::string_view file, TemplateKind kind) {
  return TemplateReader(file, kind).Read(toml);
}

absl::StatusOr<std::vector<Value>> FindValues(const KeyTemplate& parsed, const ConfigValue& config,
                                              std::string_view config_file, std::string_view head) {
  std::vector<Value> values(parsed.symbols.size());
  if (!head.empty()) values[parsed.head_slot] = head;
  for (const TemplateValue& rule : parsed.values) {
    const ConfigValue* given = rule.path.empty() ? nullptr : FindPath(config, rule.path);
    if (given != nullptr && !given->is_null()) {
      values[rule.slot] = ValueOf(*given);
      continue;
    }
    if (rule.required) return ConfigError(config_file, StrCat(rule.name, " is missing"), parsed.file, rule.line);
    absl::StatusOr<Value> value = rule.expression->Evaluate(values);
    if (!value.ok())
      return ConfigError(config_file, StrCat(rule.name, ": ", ToStd(value.status().message())), parsed.file, rule.line);
    values[rule.slot] = *value;
  }
  for (const TemplateCondition& requirement : parsed.requirements) {
    const absl::StatusOr<Value> holds = requirement.expression.Evaluate(values);
    if (!holds.ok()) return ConfigError(config_file, ToStd(holds.status().message()), parsed.file, requirement.line);
    if (!IsTrue(*holds)) {
      return MakeError(Reason::kConfigNotSupported,
                       StrCat(config_file, ": the template is for configurations with ", requirement.expression.text(),
                              " (", parsed.file, ":", requirement.line, ")"),
                       {{"file", std::string(config_file)}, {"template", StrCat(parsed.file, ":", requirement.line)}});
    }
  }
  return values;
}

}  // namespace keyload
