#include "server/expected/expand.h"

#include <algorithm>
#include <utility>

#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/checkpoint/json_checks.h"

namespace keyload {
namespace {

constexpr size_t kMaxSteps = 4 * kMaxExpectedKeys;  // lines looked at, those whose condition is false too
constexpr size_t kMaxNameBytes = size_t{256} << 20;
constexpr size_t kMaxTexts = 1'000;

class Expander {
 public:
  Expander(ExpandInput input, Manifest& manifest) : input_(std::move(input)), manifest_(manifest) {}

  absl::Status Run() {
    const Scope scope = {.parsed = &input_.family, .values = &input_.values};
    if (!input_.base_only) return ExpandNodes(input_.family.tree, scope);
    for (const TreeNode& node : input_.family.tree) {
      const bool base =
          node.name.size() == 1 && !node.name[0].range && node.name[0].literal == input_.family.base_model_prefix;
      if (base) return ExpandNodes(node.children, scope);
    }
    return TemplateError(input_.family.file, 1, "the tree has no module with the name of base_model_prefix");
  }

 private:
  struct Scope {
    const KeyTemplate* parsed;
    std::vector<Value>* values;
  };

  absl::Status Problem(const Scope& scope, const TreeNode& node, std::string_view what) const {
    return ConfigError(input_.config_file, what, scope.parsed->file, node.line);
  }
  absl::Status Problem(const Scope& scope, const TreeNode& node, const absl::Status& status) const {
    return Problem(scope, node, ToStd(status.message()));
  }

  absl::Status ExpandNodes(const std::vector<TreeNode>& nodes, const Scope& scope) {
    for (const TreeNode& node : nodes) {
      const size_t length = name_.size();
      if (length > 0) name_ += '.';
      const absl::Status status = ExpandName(node, 0, scope);
      name_.resize(length);
      KEYLOAD_RETURN_IF_ERROR(status);
    }
    return absl::OkStatus();
  }

  // The node with its name from `part` on, once for each number of the ranges there.
  absl::Status ExpandName(const TreeNode& node, size_t part, const Scope& scope) {
    if (++steps_ > kMaxSteps) return Problem(scope, node, StrCat("more than ", kMaxSteps, " lines of the template"));
    if (part == node.name.size()) return Emit(node, scope);
    const NamePart& at = node.name[part];
    const size_t length = name_.size();
    name_ += at.literal;
    if (!at.range) {
      const absl::Status status = ExpandName(node, part + 1, scope);
      name_.resize(length);
      return status;
    }
    const absl::StatusOr<int64_t> first = at.range->first.Integer(*scope.values);
    if (!first.ok()) return Problem(scope, node, first.status());
    const absl::StatusOr<int64_t> last = at.range->last.Integer(*scope.values);
    if (!last.ok()) return Problem(scope, node, last.status());
    const size_t before_number = name_.size();
    for (int64_t number = *first; number <= *last; ++number) {
      StrAppend(&name_, number);
      (*scope.values)[at.range->slot] = number;
      KEYLOAD_RETURN_IF_ERROR(ExpandName(node, part + 1, scope));
      name_.resize(before_number);
    }
    name_.resize(length);
    return absl::OkStatus();
  }

  absl::Status Emit(const TreeNode& node, const Scope& scope) {
    if (node.condition) {
      const absl::StatusOr<Value> holds = node.condition->Evaluate(*scope.values);
      if (!holds.ok()) return Problem(scope, node, holds.status());
      if (!IsTrue(*holds)) return absl::OkStatus();
    }
    if (name_.size() > kMaxKeyBytes) return Problem(scope, node, StrCat("a name of over ", kMaxKeyBytes, " bytes"));
    name_bytes_ += name_.size();
    if (name_bytes_ > kMaxNameBytes || manifest_.modules.size() + manifest_.tensors.size() >= 2 * kMaxExpectedKeys)
      return Problem(scope, node, StrCat("more than ", kMaxExpectedKeys, " keys"));
    if (node.class_name.empty()) return EmitTensor(node, scope);
    manifest_.modules.push_back({.name = name_, .class_name = node.class_name});
    const size_t before = manifest_.tensors.size();
    KEYLOAD_RETURN_IF_ERROR(ExpandNodes(node.children, scope));
    if (input_.quantization == nullptr || !input_.quantization->Replaces(name_, node.class_name))
      return absl::OkStatus();
    return Quantize(before);
  }

  // Replaces the tensors from `first` on, those of one linear layer.
  absl::Status Quantize(size_t first) {
    bool bias = false;
    Shape weight;
    for (size_t i = first; i < manifest_.tensors.size(); ++i) {
      const std::string_view own = std::string_view(manifest_.tensors[i].name).substr(name_.size() + 1);
      if (own == "weight") weight = manifest_.tensors[i].shape;
      bias = bias || own == "bias";
    }
    if (weight.size() != 2) return absl::OkStatus();
    manifest_.tensors.resize(first);
    const Scope scope = {.parsed = &input_.quantization->parsed(),
                         .values = &input_.quantization->ValuesFor(weight[0], weight[1], bias)};
    return ExpandNodes(scope.parsed->tree, scope);
  }

  absl::Status EmitTensor(const TreeNode& node, const Scope& scope) {
    if (manifest_.tensors.size() == kMaxExpectedKeys)
      return Problem(scope, node, StrCat("more than ", kMaxExpectedKeys, " keys"));
    TensorSpec tensor = {.name = name_, .kind = node.kind, .dtype = node.dtype.value_or(input_.dtype)};
    for (const Expression& size : node.shape) {
      const absl::StatusOr<int64_t> elements = size.Integer(*scope.values);
      if (!elements.ok()) return Problem(scope, node, elements.status());
      if (*elements < 0) return Problem(scope, node, StrCat(size.text(), " is negative: ", *elements));
      tensor.shape.push_back(static_cast<uint64_t>(*elements));
    }
    const TensorSize size = ComputeTensorSize(tensor.dtype, tensor.shape);
    if (size.error || __builtin_add_overflow(total_bytes_, size.bytes, &total_bytes_))
      return Problem(scope, node,
                     StrCat("the size of ", Shortened(name_), " exceeds 64 bits, alone or with the others"));
    manifest_.tensors.push_back(std::move(tensor));
    return absl::OkStatus();
  }

  ExpandInput input_;
  Manifest& manifest_;
  std::string name_;
  size_t steps_ = 0;
  size_t name_bytes_ = 0;
  uint64_t total_bytes_ = 0;
};

// One text and the ranges in it; the first range varies slowest.
class NameExpander {
 public:
  NameExpander(const TemplateName& name, std::vector<Value>& values, std::vector<std::string>& texts)
      : name_(name), values_(values), texts_(texts) {}

  absl::Status Run() { return From(0); }

 private:
  absl::Status From(size_t part) {
    if (part == name_.parts.size()) {
      if (texts_.size() == kMaxTexts) return absl::InvalidArgumentError(StrCat("over ", kMaxTexts, " patterns"));
      texts_.push_back(text_);
      return absl::OkStatus();
    }
    const NamePart& at = name_.parts[part];
    const size_t length = text_.size();
    text_ += at.literal;
    int64_t first = 0, last = 0;
    if (at.range) {
      KEYLOAD_ASSIGN_OR_RETURN(first, at.range->first.Integer(values_));
      KEYLOAD_ASSIGN_OR_RETURN(last, at.range->last.Integer(values_));
    }
    const size_t before_number = text_.size();
    for (int64_t number = first; number <= last; ++number) {
      if (at.range) {
        StrAppend(&text_, number);
        values_[at.range->slot] = number;
      }
      KEYLOAD_RETURN_IF_ERROR(From(part + 1));
      text_.resize(before_number);
    }
    text_.resize(length);
    return absl::OkStatus();
  }

  const TemplateName& name_;
  std::vector<Value>& values_;
  std::vector<std::string>& texts_;
  std::string text_;
};

}  // namespace

absl::Status ExpandTree(ExpandInput input, Manifest& manifest) { return Expander(std::move(input), manifest).Run(); }

absl::Status ExpandNames(const std::vector<TemplateName>& names, const KeyTemplate& parsed, std::vector<Value> values,
                         std::string_view config_file, std::vector<std::string>& texts) {
  for (const TemplateName& name : names) {
    if (const absl::Status status = NameExpander(name, values, texts).Run(); !status.ok())
      return ConfigError(config_file, ToStd(status.message()), parsed.file, name.line);
  }
  return absl::OkStatus();
}

}  // namespace keyload
