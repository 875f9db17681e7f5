#include "server/keys/lacking_sources.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>

#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "server/base/strings.h"
#include "server/checkpoint/json_checks.h"

namespace keyload {
namespace {

constexpr size_t kNamed = 5;
constexpr uint64_t kLargestNumber = uint64_t{1} << 62;

bool TakesSeveral(std::string_view source) {
  return source.find("*.") != std::string_view::npos || source.find("\\d") != std::string_view::npos;
}

std::vector<absl::string_view> Components(std::string_view name) { return absl::StrSplit(ToAbsl(name), '.'); }

// The component at `position`; empty where there is none.
std::string_view ComponentAt(std::string_view name, ptrdiff_t position) {
  for (; position > 0; --position) {
    const size_t dot = name.find('.');
    if (dot == std::string_view::npos) return "";
    name.remove_prefix(dot + 1);
  }
  return name.substr(0, name.find('.'));
}

std::optional<uint64_t> NumberOf(std::string_view text) {
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number > kLargestNumber) return std::nullopt;
  return number;
}

class Sources {
 public:
  Sources(const CheckpointIndex& index, const Conversion& conversion, std::span<const std::vector<uint32_t>> inputs)
      : index_(index), conversion_(conversion), inputs_(inputs) {
    for (const std::string& source : conversion.sources) several_.push_back(TakesSeveral(source));
  }

  std::string Lacking(std::span<const Shape> shapes) {
    const std::optional<uint64_t> count = CountByShape(shapes);
    FindNumbers();
    if (twice_) return StrCat("two of its stored keys have the number ", *twice_);
    uint64_t from = 0;
    uint64_t to = 0;  // one past the last
    if (!numbers_.empty()) Range(count, from, to);
    for (size_t i = 0; i < inputs_.size(); ++i) {
      if (inputs_[i].empty()) {
        Add(several_[i] ? std::max<uint64_t>(to - from, 1) : 1,
            StrCat("all of '", Shortened(conversion_.sources[i]), "'"));
      } else if (several_[i] && !numbers_.empty()) {
        AddHoles(i, from, to);
      }
    }
    if (lacking_ > 0) {
      return StrCat("it lacks ", lacking_,
                    lacking_ == 1 ? " stored key: " : " stored keys: ", absl::StrJoin(names_, ", "),
                    lacking_ > names_.size() ? ", ..." : "");
    }
    for (size_t i = 0; i < inputs_.size(); ++i) {
      const uint64_t wanted = numbers_.empty() ? count.value_or(0) : to - from;
      if (several_[i] && inputs_[i].size() < wanted) {
        return StrCat("it has ", inputs_[i].size(), " of ", wanted, " stored keys of '",
                      Shortened(conversion_.sources[i]), "'");
      }
    }
    return "";
  }

 private:
  // How many stored keys each source that takes several must have, by the dimension in which they lie behind one
  // another; nothing where the operations do not tell.
  std::optional<uint64_t> CountByShape(std::span<const Shape> shapes) const {
    const std::vector<ConversionOperation>& operations = conversion_.operations;
    const auto some = std::find_if(inputs_.begin(), inputs_.end(), [](const auto& input) { return !input.empty(); });
    if (shapes.size() != 1 || some == inputs_.end()) return std::nullopt;
    const Shape& shape = shapes.front();
    const bool stacks = operations.front().kind == OperationKind::kStack;
    const size_t rank = index_.tensors()[some->front()].shape.size() + (stacks ? 1 : 0);
    if (shape.size() != rank) return std::nullopt;
    const auto dimension = [&](const ConversionOperation& operation) {
      const int64_t dim = operation.dims.front();
      return static_cast<size_t>(dim < 0 ? dim + static_cast<int64_t>(rank) : dim);
    };
    const size_t dim = dimension(operations.front());
    if (dim >= rank) return std::nullopt;
    if (!stacks) return operations.size() == 1 ? CountByLength(operations.front(), shape, dim) : std::nullopt;
    uint64_t each = 1;
    for (size_t i = 1; i < operations.size(); ++i) {
      if (operations[i].kind != OperationKind::kConcatenate) return std::nullopt;
      if (dimension(operations[i]) == dim) each = inputs_.size();
    }
    return shape[dim] % each == 0 ? std::optional(std::min(shape[dim] / each, kLargestNumber)) : std::nullopt;
  }

  // The same for one CONCATENATE along `dim`.
  std::optional<uint64_t> CountByLength(const ConversionOperation& operation, const Shape& shape, size_t dim) const {
    if (operation.kind != OperationKind::kConcatenate) return std::nullopt;
    uint64_t each = 0;  // of one stored key of every source that takes several
    uint64_t fixed = 0;
    for (size_t i = 0; i < inputs_.size(); ++i) {
      if (inputs_[i].empty()) return std::nullopt;
      const Shape& first = index_.tensors()[inputs_[i].front()].shape;
      for (const uint32_t stored : inputs_[i]) {
        if (index_.tensors()[stored].shape != first) return std::nullopt;
      }
      if (first.size() != shape.size() || first[dim] > shape[dim] - fixed) return std::nullopt;
      if (!several_[i]) fixed += first[dim];
      if (several_[i] && first[dim] > kLargestNumber / inputs_.size()) return std::nullopt;
      if (several_[i]) each += first[dim];
    }
    if (each == 0 || (shape[dim] - fixed) % each != 0) return std::nullopt;
    return std::min((shape[dim] - fixed) / each, kLargestNumber);
  }

  // Fills numbers_ from the one component in which the names of each source differ, unless something else differs.
  void FindNumbers() {
    const auto components = [&](uint32_t stored) { return Components(index_.tensors()[stored].name); };
    for (size_t i = 0; i < inputs_.size() && component_ < 0; ++i) {
      if (!several_[i] || inputs_[i].size() < 2) continue;
      const auto first = components(inputs_[i].front());
      const auto last = components(inputs_[i].back());
      const auto different = std::mismatch(first.begin(), first.end(), last.begin(), last.end()).first;
      if (first.size() == last.size()) component_ = different - first.begin();
    }
    if (component_ < 0) return;
    std::vector<std::vector<uint64_t>> numbers(inputs_.size());
    for (size_t i = 0; i < inputs_.size(); ++i) {
      if (!several_[i]) continue;
      for (const uint32_t stored : inputs_[i]) {
        const auto number = NumberOf(ComponentAt(index_.tensors()[stored].name, component_));
        if (!number) return;
        numbers[i].push_back(*number);
      }
      std::sort(numbers[i].begin(), numbers[i].end());
      const auto twice = std::adjacent_find(numbers[i].begin(), numbers[i].end());
      if (twice != numbers[i].end()) twice_ = *twice;
    }
    numbers_ = std::move(numbers);
  }

  // The numbers that there must be.
  void Range(std::optional<uint64_t> count, uint64_t& from, uint64_t& to) const {
    from = kLargestNumber;
    for (const std::vector<uint64_t>& numbers : numbers_) {
      if (numbers.empty()) continue;
      from = std::min(from, numbers.front());
      to = std::max(to, numbers.back() + 1);
    }
    if (!count || to - from >= *count) return;
    if (from < *count) from = 0;
    to = std::max(to, from + *count);
  }

  void AddHoles(size_t source, uint64_t from, uint64_t to) {
    const std::vector<uint64_t>& numbers = numbers_[source];
    const std::string_view name = index_.tensors()[inputs_[source].front()].name;
    const auto parts = Components(name);
    const auto hole = [&](uint64_t begin, uint64_t end) {
      for (uint64_t number = begin; number < end; ++number) {
        if (names_.size() == kNamed) {
          lacking_ += end - number;
          return;
        }
        std::string text = absl::StrCat(number);
        std::vector<absl::string_view> made = parts;
        made[component_] = text;
        Add(1, Shortened(absl::StrJoin(made, ".")));
      }
    };
    uint64_t next = from;
    for (const uint64_t number : numbers) {
      hole(next, number);
      next = number + 1;
    }
    hole(next, to);
  }

  void Add(uint64_t lacking, std::string name) {
    lacking_ += lacking;
    if (names_.size() < kNamed) names_.push_back(std::move(name));
  }

  const CheckpointIndex& index_;
  const Conversion& conversion_;
  const std::span<const std::vector<uint32_t>> inputs_;
  std::vector<bool> several_;                   // per source
  ptrdiff_t component_ = -1;                    // of the names, in which the number is
  std::vector<std::vector<uint64_t>> numbers_;  // per source, ascending; empty: not known
  std::optional<uint64_t> twice_;               // a number that two keys of a source have, as "1" and "01"
  uint64_t lacking_ = 0;
  std::vector<std::string> names_;
};

}  // namespace

std::string WhatIsLacking(const CheckpointIndex& index, const Conversion& conversion,
                          std::span<const std::vector<uint32_t>> inputs, std::span<const Shape> shapes) {
  return Sources(index, conversion, inputs).Lacking(shapes);
}

}  // namespace keyload
