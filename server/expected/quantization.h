#pragma once

#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/expected/key_template.h"
#include "server/expected/module_names.h"

namespace keyload {

// What a quantization_config does to a model's linear layers. Immutable but for the slots of one layer; not
// thread-safe.
class Quantization {
 public:
  // `config` is the quantization_config; it and `parsed` must outlive the result. CONFIG_INVALID, CONFIG_NOT_SUPPORTED.
  static absl::StatusOr<Quantization> Create(const KeyTemplate& parsed, const ConfigValue& config,
                                             std::string_view config_file);

  bool Replaces(std::string_view module, std::string_view class_name) const;
  // The values that the template's tree is evaluated with, for a layer of that size.
  std::vector<Value>& ValuesFor(uint64_t rows, uint64_t columns, bool bias);
  const std::vector<Value>& values() const { return values_; }
  const KeyTemplate& parsed() const { return *parsed_; }

 private:
  const KeyTemplate* parsed_ = nullptr;
  std::vector<Value> values_;
  ModuleNames keep_;
  std::optional<ModuleNames> targets_;  // absent: every module of the template's classes
};

}  // namespace keyload
