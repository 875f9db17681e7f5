#include "server/expected/expand.h"

#include <span>
#include <utility>

#include "absl/functional/function_ref.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/checkpoint/json_checks.h"

namespace keyload {
namespace {

constexpr size_t kMaxSteps = 4 * kMaxExpectedKeys;  // lines looked at, those whose condition is false too
constexpr size_t kMaxNameBytes = size_t{256} << 20;
constexpr size_t kMaxTexts = 1'000;
constexpr uint64_t kHeapStep = 256 << 10;  // in which the manifest's heap is counted

// What is done on the way through the texts of a name.
struct TextWalk {
  absl::FunctionRef<absl::Status()> step;                              // before each part and each text
  absl::FunctionRef<absl::Status()> visit;                             // at each text
  absl::FunctionRef<absl::Status(const absl::Status&)> range_problem;  // what to return when a range is no numbers
};

// Puts `parts` behind `text`, once for each number of their ranges; the first range varies slowest.
absl::Status ForEachText(std::span<const NamePart> parts, std::vector<Value>& values, std::string& text,
                         const TextWalk& walk) {
  KEYLOAD_RETURN_IF_ERROR(walk.step());
  if (parts.empty()) return walk.visit();
  const NamePart& at = parts.front();
  const size_t length = text.size();
  text += at.literal;
  const size_t before_number = text.size();
  int64_t first = 0, last = 0;
  if (at.range) {
    const absl::StatusOr<int64_t> from = at.range->first.Integer(values);
    if (!from.ok()) return walk.range_problem(from.status());
    const absl::StatusOr<int64_t> to = at.range->last.Integer(values);
    if (!to.ok()) return walk.range_problem(to.status());
    first = *from;
    last = *to;
    const bool negative = last < first && first - static_cast<__int128>(last) > 1;
    if (negative)
      return walk.range_problem(
          absl::InvalidArgumentError(StrCat("\"", at.range->first.text(), "..", at.range->last.text(), "\" is ", first,
                                            "..", last, ", fewer than none")));
  }
  for (int64_t number = first; number <= last; ++number) {
    if (at.range) {
      StrAppend(&text, number);
      values[at.range->slot] = number;
    }
    KEYLOAD_RETURN_IF_ERROR(ForEachText(parts.subspan(1), values, text, walk));
    text.resize(before_number);
    if (number == last) break;  // what follows may be no number
  }
  text.resize(length);
  return absl::OkStatus();
}

class Expander {
 public:
  Expander(ExpandInput input, Manifest& manifest)
      : input_(std::move(input)), manifest_(manifest), check_(input_.context) {}

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
      const absl::Status status = ExpandName(node, scope);
      name_.resize(length);
      KEYLOAD_RETURN_IF_ERROR(status);
    }
    return absl::OkStatus();
  }

  absl::Status ExpandName(const TreeNode& node, const Scope& scope) {
    const auto step = [&]() -> absl::Status {
      return ++steps_ > kMaxSteps ? Problem(scope, node, StrCat("more than ", kMaxSteps, " lines of the template"))
                                  : check_.Check();
    };
    return ForEachText(node.name, *scope.values, name_,
                       {.step = step,
                        .visit = [&] { return Emit(node, scope); },
                        .range_problem = [&](const absl::Status& status) { return Problem(scope, node, status); }});
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
    KEYLOAD_RETURN_IF_ERROR(CountHeap());
    if (node.class_name.empty()) return EmitTensor(node, scope);
    manifest_.modules.push_back({.name = name_, .class_name = node.class_name});
    const size_t before = manifest_.tensors.size();
    KEYLOAD_RETURN_IF_ERROR(ExpandNodes(node.children, scope));
    if (input_.quantization == nullptr || !input_.quantization->Replaces(name_, node.class_name))
      return absl::OkStatus();
    return Quantize(before);
  }

  // Counts the heap of one more module or tensor before it is made.
  absl::Status CountHeap() {
    if (input_.context == nullptr) return absl::OkStatus();
    heap_ += 2 * sizeof(TensorSpec) + name_.size();  // a list that grows is there twice
    if (heap_ < kHeapStep) return absl::OkStatus();
    return input_.context->TakeHeap(std::exchange(heap_, 0), "the manifest that config.json makes");
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
  PeriodicCheck check_;
  std::string name_;
  size_t steps_ = 0;
  size_t name_bytes_ = 0;
  uint64_t heap_ = 0;  // not counted yet
  uint64_t total_bytes_ = 0;
};

}  // namespace

absl::Status ExpandTree(ExpandInput input, Manifest& manifest) { return Expander(std::move(input), manifest).Run(); }

absl::Status ExpandNames(const std::vector<TemplateName>& names, const KeyTemplate& parsed, std::vector<Value> values,
                         std::string_view config_file, std::vector<std::string>& texts) {
  size_t steps = 0;
  for (const TemplateName& name : names) {
    const auto problem = [&](std::string_view what) { return ConfigError(config_file, what, parsed.file, name.line); };
    const auto step = [&]() -> absl::Status {
      return ++steps > kMaxSteps ? problem(StrCat("more than ", kMaxSteps, " texts")) : absl::OkStatus();
    };
    std::string text;
    const auto visit = [&]() -> absl::Status {
      if (texts.size() == kMaxTexts) return problem(StrCat("over ", kMaxTexts, " patterns"));
      texts.push_back(text);
      return absl::OkStatus();
    };
    const auto range_problem = [&](const absl::Status& status) { return problem(ToStd(status.message())); };
    KEYLOAD_RETURN_IF_ERROR(
        ForEachText(name.parts, values, text, {.step = step, .visit = visit, .range_problem = range_problem}));
  }
  return absl::OkStatus();
}

}  // namespace keyload
