#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/checkpoint/dtype.h"
#include "server/expected/expression.h"
#include "server/keys/manifest.h"

namespace keyload {

// A text with ranges: "layers.{layer = 0..num_hidden_layers - 1}" is one part with a literal and a range.
struct NamePart {
  struct Range {
    Expression first, last;  // both inclusive; nothing where last is first - 1
    uint32_t slot = 0;       // of the number, for expressions below it
  };
  std::string literal;
  std::optional<Range> range;  // follows the literal
};

// One line of a template's tree: a module, or a tensor of the module around it.
struct TreeNode {
  uint32_t line = 0;  // in the template's file
  std::vector<NamePart> name;
  std::string class_name;  // empty: a tensor
  std::vector<Expression> shape;
  std::optional<DType> dtype;  // absent: the model's
  TensorKind kind = TensorKind::kParameter;
  std::optional<Expression> condition;  // absent: always
  std::vector<TreeNode> children;
};

// A text in which "{first..last}" or "{name = first..last}" stands for the numbers from first to last; other braces are
// text. The names become known to `symbols`; the caller hides those of `parts` again. INVALID_ARGUMENT without a
// reason.
absl::StatusOr<std::vector<NamePart>> ParseName(std::string_view text, Symbols& symbols,
                                                std::vector<std::string>& range_names);

// The lines of a tree; what is indented more than a module belongs to it:
//   NAME: CLASS [if CONDITION]
//   NAME [EXPRESSION, ...] [DTYPE] [buffer | non_persistent] [if CONDITION]
// TEMPLATE_INVALID names `file` and the line; `first_line` is that of the text's first.
absl::StatusOr<std::vector<TreeNode>> ParseTree(std::string_view text, std::string_view file, uint32_t first_line,
                                                Symbols& symbols);

// TEMPLATE_INVALID: "FILE:LINE: PROBLEM".
absl::Status TemplateError(std::string_view file, uint32_t line, std::string_view problem);

}  // namespace keyload
