#include "server/expected/expression.h"

#include <algorithm>
#include <cmath>

#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/checkpoint/json_checks.h"

namespace keyload {
namespace {

// An expression may be evaluated for each of a million keys.
constexpr size_t kMaxListSearched = 1000;

absl::Status Problem(std::string_view what) { return absl::InvalidArgumentError(ToAbsl(what)); }

std::string Describe(const Value& value) {
  struct Describer {
    std::string operator()(std::monostate) const { return "null"; }
    std::string operator()(int64_t number) const { return StrCat(number); }
    std::string operator()(double number) const { return StrCat(number); }
    std::string operator()(std::string_view text) const { return StrCat("the text \"", Shortened(text), "\""); }
    std::string operator()(const ConfigValue* value) const { return value->list() ? "a list" : "an object"; }
  };
  return std::visit(Describer(), value);
}

bool IsNumber(const Value& value) {
  return std::holds_alternative<int64_t>(value) || std::holds_alternative<double>(value);
}
double ToReal(const Value& value) {
  const int64_t* integer = std::get_if<int64_t>(&value);
  return integer != nullptr ? static_cast<double>(*integer) : std::get<double>(value);
}

bool Equal(const Value& a, const Value& b) {
  if (IsNumber(a) && IsNumber(b)) return a.index() == b.index() ? a == b : ToReal(a) == ToReal(b);
  return a == b;
}

absl::StatusOr<Value> FloorDivide(int64_t a, int64_t b, bool remainder) {
  if (b == 0) return Problem("a division by zero");
  if (b == -1) {  // the only case that overflows
    int64_t negated = 0;
    if (__builtin_sub_overflow(int64_t{0}, a, &negated)) return Problem("a number beyond 64 bits");
    return Value(remainder ? int64_t{0} : negated);
  }
  int64_t quotient = a / b, rest = a % b;
  if (rest != 0 && (rest < 0) != (b < 0)) {
    --quotient;
    rest += b;
  }
  return Value(remainder ? rest : quotient);
}

absl::StatusOr<Value> ToWhole(double number) {
  if (!(std::abs(number) < 0x1p62)) return Problem("a number beyond 64 bits");
  return Value(static_cast<int64_t>(std::floor(number)));
}

absl::StatusOr<Value> Length(const Value& value) {
  if (std::holds_alternative<std::monostate>(value)) return Value(int64_t{0});
  const ConfigValue* const* config = std::get_if<const ConfigValue*>(&value);
  if (config == nullptr) return Problem(StrCat(Describe(value), " where a list is needed"));
  if ((*config)->list() != nullptr) return Value(static_cast<int64_t>((*config)->list()->size()));
  return Value(static_cast<int64_t>((*config)->object()->size()));
}

absl::StatusOr<Value> IsIn(const Value& item, const Value& list) {
  if (std::holds_alternative<std::monostate>(list)) return Value(int64_t{0});
  const ConfigValue* const* config = std::get_if<const ConfigValue*>(&list);
  if (config == nullptr || (*config)->list() == nullptr)
    return Problem(StrCat(Describe(list), " where a list is needed"));
  const ConfigValue::List& items = *(*config)->list();
  if (items.size() > kMaxListSearched) return Problem(StrCat("a list of over ", kMaxListSearched, " values"));
  return Value(int64_t{
      std::any_of(items.begin(), items.end(), [&](const ConfigValue& other) { return Equal(item, ValueOf(other)); })});
}

absl::StatusOr<Value> Item(const Value& list, const Value& position) {
  const ConfigValue* const* config = std::get_if<const ConfigValue*>(&list);
  const int64_t* at = std::get_if<int64_t>(&position);
  if (config == nullptr || (*config)->list() == nullptr)
    return Problem(StrCat(Describe(list), " where a list is needed"));
  const ConfigValue::List& items = *(*config)->list();
  if (at == nullptr || *at < 0 || static_cast<uint64_t>(*at) >= items.size())
    return Problem(StrCat("there is no item ", Describe(position), " in a list of ", items.size()));
  return ValueOf(items[static_cast<size_t>(*at)]);
}

}  // namespace

Value ValueOf(const ConfigValue& config) {
  if (const auto* integer = std::get_if<int64_t>(&config.data)) return *integer;
  if (const auto* real = std::get_if<double>(&config.data)) return *real;
  if (config.text() != nullptr) return std::string_view(*config.text());
  if (config.is_null()) return std::monostate();
  return &config;
}

bool IsTrue(const Value& value) {
  if (const int64_t* integer = std::get_if<int64_t>(&value)) return *integer != 0;
  if (const double* real = std::get_if<double>(&value)) return *real != 0;
  if (const auto* text = std::get_if<std::string_view>(&value)) return !text->empty();
  if (const auto* config = std::get_if<const ConfigValue*>(&value))
    return (*config)->list() != nullptr ? !(*config)->list()->empty() : !(*config)->object()->empty();
  return false;
}

absl::StatusOr<Value> Expression::Operate(const Node& node, std::span<const Value> values) const {
  KEYLOAD_ASSIGN_OR_RETURN(const Value a, Evaluate(node.operands[0], values));
  switch (node.op) {
    case Op::kNot:
      return Value(int64_t{!IsTrue(a)});
    case Op::kAnd:
    case Op::kOr: {
      if (IsTrue(a) == (node.op == Op::kOr)) return Value(int64_t{node.op == Op::kOr});
      KEYLOAD_ASSIGN_OR_RETURN(const Value b, Evaluate(node.operands[1], values));
      return Value(int64_t{IsTrue(b)});
    }
    case Op::kChoose:
      return Evaluate(node.operands[IsTrue(a) ? 1 : 2], values);
    case Op::kLength:
      return Length(a);
    default:
      break;
  }
  const bool unary = node.op == Op::kFloor || node.op == Op::kNegate;
  Value b = int64_t{0};
  if (!unary) {
    KEYLOAD_ASSIGN_OR_RETURN(b, Evaluate(node.operands[1], values));
  }
  if (node.op == Op::kEqual || node.op == Op::kUnequal) return Value(int64_t{Equal(a, b) == (node.op == Op::kEqual)});
  if (node.op == Op::kIn) return IsIn(a, b);
  if (node.op == Op::kItem) return Item(a, b);
  for (const Value& operand : {a, b}) {
    if (!IsNumber(operand)) return Problem(StrCat(Describe(operand), " where a number is needed"));
  }
  return Calculate(node.op, a, b);
}

absl::StatusOr<Value> Expression::Calculate(Op op, const Value& a, const Value& b) {
  if (std::holds_alternative<double>(a) || std::holds_alternative<double>(b)) {
    const double x = ToReal(a), y = ToReal(b);
    switch (op) {
      case Op::kNegate:
        return Value(-x);
      case Op::kFloor:
        return ToWhole(x);
      case Op::kAdd:
        return Value(x + y);
      case Op::kSubtract:
        return Value(x - y);
      case Op::kMultiply:
        return Value(x * y);
      case Op::kLess:
        return Value(int64_t{x < y});
      case Op::kLessEqual:
        return Value(int64_t{x <= y});
      case Op::kMin:
        return Value(std::min(x, y));
      case Op::kMax:
        return Value(std::max(x, y));
      default:
        return Problem("a number with a fraction where a whole one is needed");
    }
  }
  const int64_t x = std::get<int64_t>(a), y = std::get<int64_t>(b);
  int64_t result = 0;
  bool overflow = false;
  switch (op) {
    case Op::kNegate:
      overflow = __builtin_sub_overflow(int64_t{0}, x, &result);
      break;
    case Op::kFloor:
      result = x;
      break;
    case Op::kAdd:
      overflow = __builtin_add_overflow(x, y, &result);
      break;
    case Op::kSubtract:
      overflow = __builtin_sub_overflow(x, y, &result);
      break;
    case Op::kMultiply:
      overflow = __builtin_mul_overflow(x, y, &result);
      break;
    case Op::kDivide:
      return FloorDivide(x, y, false);
    case Op::kRemainder:
      return FloorDivide(x, y, true);
    case Op::kCeilDivide: {
      KEYLOAD_ASSIGN_OR_RETURN(const Value rest, FloorDivide(x, y, true));
      KEYLOAD_ASSIGN_OR_RETURN(const Value quotient, FloorDivide(x, y, false));
      overflow = __builtin_add_overflow(std::get<int64_t>(quotient), int64_t{std::get<int64_t>(rest) != 0}, &result);
      break;
    }
    case Op::kMin:
      result = std::min(x, y);
      break;
    case Op::kMax:
      result = std::max(x, y);
      break;
    case Op::kLess:
      result = x < y;
      break;
    case Op::kLessEqual:
      result = x <= y;
      break;
    default:
      return Problem("an operation that is not known");
  }
  if (overflow) return Problem("a number beyond 64 bits");
  return Value(result);
}

absl::StatusOr<Value> Expression::Evaluate(uint32_t node, std::span<const Value> values) const {
  const Node& at = nodes_[node];
  if (at.op == Op::kSlot) return values[at.slot];
  if (at.op != Op::kConstant) return Operate(at, values);
  if (const int64_t* number = std::get_if<int64_t>(&at.constant)) return Value(*number);
  if (const std::string* text = std::get_if<std::string>(&at.constant)) return Value(std::string_view(*text));
  return Value();
}

absl::StatusOr<Value> Expression::Evaluate(std::span<const Value> values) const { return Evaluate(root_, values); }

absl::StatusOr<int64_t> Expression::Integer(std::span<const Value> values) const {
  KEYLOAD_ASSIGN_OR_RETURN(const Value value, Evaluate(values));
  if (const int64_t* number = std::get_if<int64_t>(&value)) return *number;
  return Problem(StrCat("\"", text_, "\" is ", Describe(value), " where a whole number is needed"));
}

}  // namespace keyload
