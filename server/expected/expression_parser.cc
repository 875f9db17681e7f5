#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/expected/expression.h"

namespace keyload {

namespace {
constexpr size_t kMaxBytes = 1000;
constexpr int kMaxExpressionDepth = 32;
}  // namespace

// Recursive descent, loosest operators first.
class ExpressionParser {
 public:
  ExpressionParser(std::string_view text, const Symbols& symbols) : text_(text), symbols_(symbols) {}

  absl::StatusOr<Expression> Parse() {
    if (text_.size() > kMaxBytes)
      return absl::InvalidArgumentError(StrCat("the expression is over ", kMaxBytes, " bytes"));
    KEYLOAD_ASSIGN_OR_RETURN(result_.root_, ParseOr());
    SkipSpaces();
    if (at_ < text_.size()) return Problem("unexpected text");
    result_.text_ = std::string(text_);
    return std::move(result_);
  }

 private:
  using Op = Expression::Op;
  using Position = absl::StatusOr<uint32_t>;

  absl::Status Problem(std::string_view what) const {
    return absl::InvalidArgumentError(StrCat(what, " at column ", at_ + 1, " of \"", text_, "\""));
  }
  void SkipSpaces() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
  }
  bool Take(std::string_view symbol) {
    SkipSpaces();
    if (!text_.substr(at_).starts_with(symbol)) return false;
    at_ += symbol.size();
    return true;
  }
  static bool IsNameByte(char c) { return absl::ascii_isalnum(c) || c == '_'; }
  std::string_view PeekWord() {
    SkipSpaces();
    size_t end = at_;
    while (end < text_.size() && IsNameByte(text_[end])) ++end;
    return text_.substr(at_, end - at_);
  }
  bool TakeWord(std::string_view word) {
    if (PeekWord() != word) return false;
    at_ += word.size();
    return true;
  }

  uint32_t Add(Expression::Node node) {
    result_.nodes_.push_back(std::move(node));
    return static_cast<uint32_t>(result_.nodes_.size() - 1);
  }
  uint32_t Binary(Op op, uint32_t a, uint32_t b) { return Add({.op = op, .operands = {a, b, 0}, .constant = {}}); }

  Position ParseOr() {
    if (++depth_ > kMaxExpressionDepth) return Problem("nested too deeply");
    KEYLOAD_ASSIGN_OR_RETURN(uint32_t left, ParseAnd());
    while (TakeWord("or")) {
      KEYLOAD_ASSIGN_OR_RETURN(const uint32_t right, ParseAnd());
      left = Binary(Op::kOr, left, right);
    }
    --depth_;
    return left;
  }
  Position ParseAnd() {
    KEYLOAD_ASSIGN_OR_RETURN(uint32_t left, ParseNot());
    while (TakeWord("and")) {
      KEYLOAD_ASSIGN_OR_RETURN(const uint32_t right, ParseNot());
      left = Binary(Op::kAnd, left, right);
    }
    return left;
  }
  Position ParseNot() {
    bool negated = false;
    while (TakeWord("not")) negated = !negated;
    KEYLOAD_ASSIGN_OR_RETURN(const uint32_t value, ParseComparison());
    return negated ? Binary(Op::kNot, value, 0) : value;
  }
  Position ParseComparison() {
    KEYLOAD_ASSIGN_OR_RETURN(const uint32_t left, ParseSum());
    static constexpr std::pair<std::string_view, Op> kSymbols[] = {
        {"==", Op::kEqual}, {"!=", Op::kUnequal}, {"<=", Op::kLessEqual}, {"<", Op::kLess}};
    for (const auto& [symbol, op] : kSymbols) {
      if (!Take(symbol)) continue;
      KEYLOAD_ASSIGN_OR_RETURN(const uint32_t right, ParseSum());
      return Binary(op, left, right);
    }
    const bool at_least = Take(">=");
    if (at_least || Take(">")) {
      KEYLOAD_ASSIGN_OR_RETURN(const uint32_t right, ParseSum());
      return Binary(at_least ? Op::kLessEqual : Op::kLess, right, left);
    }
    const bool negated = TakeWord("not");
    if (!TakeWord("in")) return negated ? Position(Problem("\"in\" is missing")) : Position(left);
    KEYLOAD_ASSIGN_OR_RETURN(const uint32_t list, ParseSum());
    const uint32_t found = Binary(Op::kIn, left, list);
    return negated ? Binary(Op::kNot, found, 0) : found;
  }
  Position ParseSum() {
    KEYLOAD_ASSIGN_OR_RETURN(uint32_t left, ParseProduct());
    while (true) {
      const bool plus = Take("+");
      if (!plus && !Take("-")) return left;
      KEYLOAD_ASSIGN_OR_RETURN(const uint32_t right, ParseProduct());
      left = Binary(plus ? Op::kAdd : Op::kSubtract, left, right);
    }
  }
  Position ParseProduct() {
    KEYLOAD_ASSIGN_OR_RETURN(uint32_t left, ParseUnary());
    while (true) {
      Op op = Op::kMultiply;
      if (Take("//")) {
        op = Op::kDivide;
      } else if (Take("%")) {
        op = Op::kRemainder;
      } else if (!Take("*")) {
        return left;
      }
      KEYLOAD_ASSIGN_OR_RETURN(const uint32_t right, ParseUnary());
      left = Binary(op, left, right);
    }
  }
  Position ParseUnary() {
    bool negated = false;
    while (Take("-")) negated = !negated;
    KEYLOAD_ASSIGN_OR_RETURN(const uint32_t value, ParsePrimary());
    return negated ? Binary(Op::kNegate, value, 0) : value;
  }

  Position ParsePrimary() {
    if (Take("(")) {
      KEYLOAD_ASSIGN_OR_RETURN(const uint32_t value, ParseOr());
      if (!Take(")")) return Problem("\")\" is missing");
      return value;
    }
    if (Take("'")) {
      const size_t end = text_.find('\'', at_);
      if (end == std::string_view::npos) return Problem("the text has no end");
      const std::string_view content = text_.substr(at_, end - at_);
      at_ = end + 1;
      return Add({.constant = std::string(content)});
    }
    const std::string_view word = PeekWord();
    if (word.empty()) return Problem("a value is missing");
    if (absl::ascii_isdigit(word[0])) return ParseNumber(word);
    at_ += word.size();
    if (word == "true") return Add({.constant = int64_t{1}});
    if (word == "false") return Add({.constant = int64_t{0}});
    if (word == "null") return Add({.constant = std::monostate()});
    if (Take("(")) return ParseCall(word);
    const std::optional<uint32_t> slot = symbols_.Find(word);
    if (!slot) return Problem(StrCat("\"", word, "\" is no value that is known here"));
    return Add({.op = Op::kSlot, .slot = *slot, .constant = {}});
  }
  Position ParseNumber(std::string_view word) {
    int64_t number = 0;
    if (!absl::SimpleAtoi(ToAbsl(word), &number)) return Problem(StrCat("\"", word, "\" is no whole number"));
    at_ += word.size();
    return Add({.constant = number});
  }
  Position ParseCall(std::string_view function) {
    static constexpr struct {
      std::string_view name;
      Op op;
      size_t operands;
    } kFunctions[] = {
        {"ceil_div", Op::kCeilDivide, 2}, {"min", Op::kMin, 2},       {"max", Op::kMax, 2},  {"floor", Op::kFloor, 1},
        {"length", Op::kLength, 1},       {"choose", Op::kChoose, 3}, {"item", Op::kItem, 2}};
    for (const auto& known : kFunctions) {
      if (known.name != function) continue;
      Expression::Node node = {.op = known.op, .constant = {}};
      for (size_t i = 0; i < known.operands; ++i) {
        if (i > 0 && !Take(",")) return Problem(StrCat(function, " takes ", known.operands, " values"));
        KEYLOAD_ASSIGN_OR_RETURN(node.operands[i], ParseOr());
      }
      if (!Take(")")) return Problem(StrCat(function, " takes ", known.operands, " values"));
      return Add(std::move(node));
    }
    return Problem(StrCat("there is no function \"", function, "\""));
  }

  const std::string_view text_;
  const Symbols& symbols_;
  size_t at_ = 0;
  int depth_ = 0;
  Expression result_;
};

std::optional<uint32_t> Symbols::Define(std::string_view name) {
  if (!slots_.emplace(std::string(name), size_).second) return std::nullopt;
  return size_++;
}

std::optional<uint32_t> Symbols::Find(std::string_view name) const {
  const auto found = slots_.find(std::string(name));
  if (found == slots_.end()) return std::nullopt;
  return found->second;
}

absl::StatusOr<Expression> Expression::Parse(std::string_view text, const Symbols& symbols) {
  return ExpressionParser(text, symbols).Parse();
}

}  // namespace keyload
