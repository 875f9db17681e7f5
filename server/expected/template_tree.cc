#include "server/expected/template_tree.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

constexpr size_t kMaxLines = 10'000;
constexpr int kMaxDepth = 32;

std::string_view Trimmed(std::string_view text) { return ToStd(absl::StripAsciiWhitespace(ToAbsl(text))); }

bool IsWord(std::string_view text, std::string_view more = "") {
  if (text.empty()) return false;
  for (const char c : text) {
    if (!absl::ascii_isalnum(c) && c != '_' && more.find(c) == std::string_view::npos) return false;
  }
  return true;
}

// Where `symbol` is in `text` outside of brackets and braces and quotes, or npos.
size_t FindOutside(std::string_view text, std::string_view symbol) {
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\'') quoted = !quoted;
    if (quoted) continue;
    if (depth == 0 && text.substr(i).starts_with(symbol)) return i;
    if (c == '[' || c == '{' || c == '(') ++depth;
    if (c == ']' || c == '}' || c == ')') --depth;
  }
  return std::string_view::npos;
}

struct Line {
  uint32_t number = 0;
  size_t indent = 0;
  std::string_view text;
};

class TreeParser {
 public:
  TreeParser(std::string_view file, Symbols& symbols) : file_(file), symbols_(symbols) {}

  absl::StatusOr<std::vector<TreeNode>> Parse(std::string_view text, uint32_t first_line) {
    KEYLOAD_RETURN_IF_ERROR(SplitLines(text, first_line));
    KEYLOAD_ASSIGN_OR_RETURN(std::vector<TreeNode> nodes, ParseBlock(0));
    if (next_ < lines_.size()) return Problem(lines_[next_].number, "less indented than the first line");
    return nodes;
  }

 private:
  absl::Status Problem(uint32_t line, std::string_view what) const { return TemplateError(file_, line, what); }

  absl::Status SplitLines(std::string_view text, uint32_t number) {
    for (; !text.empty(); ++number) {
      const std::string_view whole = text.substr(0, text.find('\n'));
      text.remove_prefix(std::min(text.size(), whole.size() + 1));
      const std::string_view content = Trimmed(whole.substr(0, whole.find('#')));
      if (content.empty()) continue;
      if (lines_.size() == kMaxLines) return Problem(number, StrCat("over ", kMaxLines, " lines"));
      const size_t indent = whole.find_first_not_of(' ');
      if (whole[indent] == '\t') return Problem(number, "indented with a tab");
      lines_.push_back({.number = number, .indent = indent, .text = content});
    }
    return absl::OkStatus();
  }

  // The lines from the next one that are indented alike, with what is below them.
  absl::StatusOr<std::vector<TreeNode>> ParseBlock(int depth) {
    std::vector<TreeNode> nodes;
    if (next_ == lines_.size()) return nodes;
    if (depth > kMaxDepth) return Problem(lines_[next_].number, "nested too deeply");
    const size_t indent = lines_[next_].indent;
    while (next_ < lines_.size() && lines_[next_].indent == indent) {
      const Line& line = lines_[next_++];
      std::vector<std::string> range_names;
      TreeNode node = {.line = line.number};
      if (const absl::Status status = ParseLine(line.text, node, range_names); !status.ok())
        return Problem(line.number, std::string(status.message()));
      if (next_ < lines_.size() && lines_[next_].indent > indent) {
        if (node.class_name.empty()) return Problem(lines_[next_].number, "a tensor has nothing below it");
        KEYLOAD_ASSIGN_OR_RETURN(node.children, ParseBlock(depth + 1));
      }
      if (next_ < lines_.size() && lines_[next_].indent > indent)
        return Problem(lines_[next_].number, "indented unlike the lines around it");
      for (const std::string& name : range_names) symbols_.Hide(name);
      nodes.push_back(std::move(node));
    }
    return nodes;
  }

  absl::Status ParseLine(std::string_view text, TreeNode& node, std::vector<std::string>& range_names) {
    std::string_view condition;
    if (const size_t at = FindOutside(text, " if "); at != std::string_view::npos) {
      condition = Trimmed(text.substr(at + 4));
      text = Trimmed(text.substr(0, at));
    }
    const size_t colon = FindOutside(text, ":"), bracket = FindOutside(text, "[");
    if (colon == std::string_view::npos && bracket == std::string_view::npos)
      return absl::InvalidArgumentError("neither \"NAME: CLASS\" nor \"NAME [SHAPE]\"");
    const bool is_module = bracket == std::string_view::npos;
    KEYLOAD_ASSIGN_OR_RETURN(node.name,
                             ParseName(Trimmed(text.substr(0, is_module ? colon : bracket)), symbols_, range_names));
    KEYLOAD_RETURN_IF_ERROR(CheckName(node.name));
    if (is_module) {
      node.class_name = std::string(Trimmed(text.substr(colon + 1)));
      if (!IsWord(node.class_name)) return absl::InvalidArgumentError("the class is not a plain name");
    } else {
      KEYLOAD_RETURN_IF_ERROR(ParseTensor(text.substr(bracket + 1), node));
    }
    if (condition.empty()) return absl::OkStatus();
    KEYLOAD_ASSIGN_OR_RETURN(node.condition, Expression::Parse(condition, symbols_));
    return absl::OkStatus();
  }

  static absl::Status CheckName(const std::vector<NamePart>& parts) {
    bool ends_with_dot = true;
    for (const NamePart& part : parts) {
      std::string_view literal = part.literal;
      if (!literal.empty() && !IsWord(literal, ".-"))
        return absl::InvalidArgumentError(StrCat("\"", literal, "\" is not part of a name"));
      if ((ends_with_dot && literal.starts_with('.')) || literal.find("..") != std::string_view::npos)
        return absl::InvalidArgumentError("a component of the name is empty");
      if (!literal.empty()) ends_with_dot = literal.ends_with('.');
      if (part.range) ends_with_dot = false;
    }
    return ends_with_dot ? absl::InvalidArgumentError("a component of the name is empty") : absl::OkStatus();
  }

  // What follows the shape's bracket.
  absl::Status ParseTensor(std::string_view text, TreeNode& node) {
    const size_t end = FindOutside(text, "]");
    if (end == std::string_view::npos) return absl::InvalidArgumentError("the shape has no \"]\"");
    for (std::string_view shape = Trimmed(text.substr(0, end)); !shape.empty();) {
      const size_t comma = FindOutside(shape, ",");
      KEYLOAD_ASSIGN_OR_RETURN(Expression size, Expression::Parse(Trimmed(shape.substr(0, comma)), symbols_));
      node.shape.push_back(std::move(size));
      if (comma == std::string_view::npos) break;
      shape.remove_prefix(comma + 1);
    }
    for (std::string_view words = Trimmed(text.substr(end + 1)); !words.empty();) {
      const std::string_view word = words.substr(0, words.find(' '));
      words = Trimmed(words.substr(word.size()));
      if (word == "buffer") {
        node.kind = TensorKind::kBuffer;
      } else if (word == "non_persistent") {
        node.kind = TensorKind::kNonPersistentBuffer;
      } else if (node.dtype = ParseDType(word); !node.dtype) {
        return absl::InvalidArgumentError(StrCat("\"", word, "\" is no dtype, buffer or non_persistent"));
      }
    }
    return absl::OkStatus();
  }

  const std::string_view file_;
  Symbols& symbols_;
  std::vector<Line> lines_;
  size_t next_ = 0;
};

// What is between the braces.
absl::Status ParseRange(std::string_view text, Symbols& symbols, NamePart& part,
                        std::vector<std::string>& range_names) {
  std::string name;
  const size_t equals = text.find('='), dots = text.find("..");
  if (equals < dots) {
    name = std::string(Trimmed(text.substr(0, equals)));
    if (!IsWord(name)) return absl::InvalidArgumentError(StrCat("\"", name, "\" is no name for a number"));
  }
  const std::string_view first = text.substr(name.empty() ? 0 : equals + 1);
  NamePart::Range range;
  KEYLOAD_ASSIGN_OR_RETURN(range.first, Expression::Parse(Trimmed(first.substr(0, first.find(".."))), symbols));
  KEYLOAD_ASSIGN_OR_RETURN(range.last, Expression::Parse(Trimmed(text.substr(dots + 2)), symbols));
  const bool anonymous = name.empty();
  if (anonymous) name = StrCat("{", symbols.size(), "}");
  const std::optional<uint32_t> slot = symbols.Define(name);
  if (!slot) return absl::InvalidArgumentError(StrCat("\"", name, "\" has a value already"));
  range.slot = *slot;
  range_names.push_back(std::move(name));
  part.range = std::move(range);
  return absl::OkStatus();
}

}  // namespace

absl::Status TemplateError(std::string_view file, uint32_t line, std::string_view problem) {
  return MakeError(Reason::kTemplateInvalid, StrCat(file, ":", line, ": ", problem),
                   {{"file", std::string(file)}, {"line", StrCat(line)}});
}

absl::StatusOr<std::vector<NamePart>> ParseName(std::string_view text, Symbols& symbols,
                                                std::vector<std::string>& range_names) {
  std::vector<NamePart> parts(1);
  while (!text.empty()) {
    const size_t open = text.find('{');
    parts.back().literal += text.substr(0, open);
    if (open == std::string_view::npos) break;
    const size_t close = text.find('}', open);
    const std::string_view inside = close == std::string_view::npos ? "" : text.substr(open + 1, close - open - 1);
    if (inside.find("..") == std::string_view::npos) {
      parts.back().literal += '{';
      text.remove_prefix(open + 1);
      continue;
    }
    KEYLOAD_RETURN_IF_ERROR(ParseRange(inside, symbols, parts.back(), range_names));
    parts.emplace_back();
    text.remove_prefix(close + 1);
  }
  if (parts.back().literal.empty() && parts.size() > 1) parts.pop_back();
  return parts;
}

absl::StatusOr<std::vector<TreeNode>> ParseTree(std::string_view text, std::string_view file, uint32_t first_line,
                                                Symbols& symbols) {
  return TreeParser(file, symbols).Parse(text, first_line);
}

}  // namespace keyload
