#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "server/expected/config_value.h"

namespace keyload {

// What an expression has: nothing (null), a number, a text, or a list or object of a config.json. Borrows texts, lists
// and objects.
using Value = std::variant<std::monostate, int64_t, double, std::string_view, const ConfigValue*>;
Value ValueOf(const ConfigValue& config);
// False for null, 0, an empty text, an empty list or object.
bool IsTrue(const Value& value);

// The names that expressions may use; each has a slot in the values that they are evaluated with.
class Symbols {
 public:
  // A new slot, or nothing where the name is in use.
  std::optional<uint32_t> Define(std::string_view name);
  // The name may be defined again, with another slot.
  void Hide(std::string_view name) { slots_.erase(std::string(name)); }
  std::optional<uint32_t> Find(std::string_view name) const;
  size_t size() const { return size_; }  // slots, those of hidden names too

 private:
  absl::flat_hash_map<std::string, uint32_t> slots_;
  uint32_t size_ = 0;
};

// An expression over named values, as templates write them: whole numbers, 'texts', true, false, null, + - * // %
// (floor division, as Python's), == != < <= > >=, "in" a list of up to 1,000 values, and, or, not, and the functions
// ceil_div(a, b), min(a, b), max(a, b), floor(a), length(list), item(list, position) and choose(condition, a, b). It
// has no loops, so that evaluating ends; its text is bounded. Immutable, thread-safe.
class Expression {
 public:
  // INVALID_ARGUMENT without a reason, for who knows the place: what is wrong and at which column.
  static absl::StatusOr<Expression> Parse(std::string_view text, const Symbols& symbols);

  // `values` by slot. INVALID_ARGUMENT without a reason: a value of a kind that the operation does not take, a result
  // beyond 64 bits, a division by zero.
  absl::StatusOr<Value> Evaluate(std::span<const Value> values) const;
  // The same, and the result must be a whole number.
  absl::StatusOr<int64_t> Integer(std::span<const Value> values) const;

  const std::string& text() const { return text_; }

 private:
  friend class ExpressionParser;
  enum class Op : uint8_t {
    kConstant,
    kSlot,
    kNegate,
    kNot,
    kAnd,
    kOr,
    kAdd,
    kSubtract,
    kMultiply,
    kDivide,
    kRemainder,
    kCeilDivide,
    kMin,
    kMax,
    kEqual,
    kUnequal,
    kLess,
    kLessEqual,
    kIn,
    kFloor,
    kLength,
    kChoose,
    kItem,
  };
  struct Node {
    Op op = Op::kConstant;
    uint32_t slot = 0;
    uint32_t operands[3] = {};  // positions in nodes_
    std::variant<std::monostate, int64_t, std::string> constant;
  };
  absl::StatusOr<Value> Evaluate(uint32_t node, std::span<const Value> values) const;
  absl::StatusOr<Value> Operate(const Node& node, std::span<const Value> values) const;
  static absl::StatusOr<Value> Calculate(Op op, const Value& a, const Value& b);

  std::vector<Node> nodes_;
  uint32_t root_ = 0;
  std::string text_;
};

}  // namespace keyload
