#pragma once

#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "server/base/request_context.h"
#include "server/expected/key_template.h"
#include "server/expected/quantization.h"
#include "server/keys/manifest.h"

namespace keyload {

// What one config.json may come to.
inline constexpr size_t kMaxExpectedKeys = 1'000'000;

struct ExpandInput {
  const KeyTemplate& family;
  std::vector<Value> values;             // of `family`, see FindValues
  Quantization* quantization = nullptr;  // null: none
  DType dtype = DType::kF32;             // of tensors that name none
  bool base_only = false;                // only what is below the base model's prefix, without the prefix
  std::string_view config_file;
  const RequestContext* context = nullptr;  // asked now and then; null: never
};

// Fills modules and tensors of `manifest`, in registration order: the template's lines, each as often as its ranges
// say. CONFIG_INVALID, with the template's line: more than kMaxExpectedKeys, a range of fewer numbers than none, a
// negative size, a size beyond 64 bits, a value that is no number. Time and memory are bounded by the limit. The
// context's errors.
absl::Status ExpandTree(ExpandInput input, Manifest& manifest);

// The texts that `names` stand for, added to `texts`. CONFIG_INVALID: a value that is no number, more than 1,000 texts.
absl::Status ExpandNames(const std::vector<TemplateName>& names, const KeyTemplate& parsed, std::vector<Value> values,
                         std::string_view config_file, std::vector<std::string>& texts);

}  // namespace keyload
