#include "server/keys/glob.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

constexpr size_t kMaxNesting = 32;
constexpr size_t kNone = std::string_view::npos;

// Position of the bracket that closes the set opened at `open`. A "]" that comes first belongs to the set.
size_t SetEnd(std::string_view glob, size_t open, size_t last_bracket) {
  size_t position = open + 1;
  if (position < glob.size() && glob[position] == '!') ++position;
  if (position < glob.size() && glob[position] == ']') ++position;
  if (last_bracket == kNone || position > last_bracket) return kNone;
  return glob.find(']', position);
}

std::string_view CharacterAt(std::string_view text, size_t position) {
  const auto lead = static_cast<unsigned char>(text[position]);
  const size_t length = lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  return text.substr(position, length);
}

// Letters, digits, "_" and bytes of longer characters stand for themselves; RE2 takes any other ASCII after a
// backslash.
void AppendLiteral(std::string_view character, std::string& regex) {
  const char c = character[0];
  if (c == '\0') {
    regex += "\\x00";
    return;
  }
  if (absl::ascii_isascii(c) && !absl::ascii_isalnum(c) && c != '_') regex += '\\';
  regex += character;
}

// `body` is what stands between the brackets. UTF-8 sorts as its code points do, so ranges compare as text.
void AppendSet(std::string_view body, std::string& regex) {
  const bool complement = body.starts_with('!');
  if (complement) body.remove_prefix(1);
  std::string members;
  while (!body.empty()) {
    const std::string_view low = CharacterAt(body, 0);
    body.remove_prefix(low.size());
    if (body.size() < 2 || body[0] != '-') {
      AppendLiteral(low, members);
      continue;
    }
    const std::string_view high = CharacterAt(body, 1);
    body.remove_prefix(1 + high.size());
    if (high < low) continue;  // an empty range, as in fnmatch
    AppendLiteral(low, members);
    members += '-';
    AppendLiteral(high, members);
  }
  if (members.empty()) {
    regex += complement ? "." : "[^\\x00-\\x{10FFFF}]";
  } else {
    absl::StrAppend(&regex, complement ? "[^" : "[", members, "]");
  }
}

std::optional<int64_t> ParseInteger(std::string_view text) {
  const std::string_view digits = text.starts_with('-') ? text.substr(1) : text;
  int64_t value = 0;
  if (digits.empty() || !std::all_of(digits.begin(), digits.end(), absl::ascii_isdigit)) return std::nullopt;
  if (!absl::SimpleAtoi(ToAbsl(text), &value)) return std::nullopt;
  return value;
}

struct IntegerRange {
  int64_t low;
  int64_t high;
};

std::optional<IntegerRange> ParseRange(std::string_view body) {
  const size_t dots = body.find("..");
  if (dots == kNone) return std::nullopt;
  const std::optional<int64_t> first = ParseInteger(body.substr(0, dots));
  const std::optional<int64_t> last = ParseInteger(body.substr(dots + 2));
  if (!first.has_value() || !last.has_value()) return std::nullopt;
  return IntegerRange{.low = std::min(*first, *last), .high = std::max(*first, *last)};
}

class Translator {
 public:
  Translator(std::string_view glob, uint64_t& alternatives_left)
      : glob_(glob), alternatives_left_(alternatives_left), last_bracket_(glob.rfind(']')) {}

  absl::StatusOr<std::string> Run() {
    PairBraces();
    KEYLOAD_RETURN_IF_ERROR(TakeAlternatives(1));
    for (size_t i = 0; i < glob_.size();) {
      KEYLOAD_ASSIGN_OR_RETURN(i, Step(i));
    }
    return std::move(regex_);
  }

 private:
  // close_[i]: where the brace opened at i closes, kNone if it does not. Brackets come before braces: "{[}],a}" has a
  // set.
  void PairBraces() {
    close_.assign(glob_.size(), kNone);
    std::vector<size_t> open;
    for (size_t i = 0; i < glob_.size(); ++i) {
      if (glob_[i] == '[') {
        const size_t end = SetEnd(glob_, i, last_bracket_);
        if (end != kNone) i = end;
      } else if (glob_[i] == '{') {
        open.push_back(i);
      } else if (glob_[i] == '}' && !open.empty()) {
        close_[open.back()] = i;
        open.pop_back();
      }
    }
  }

  // Translates what begins at `i`; returns where the next piece begins.
  absl::StatusOr<size_t> Step(size_t i) {
    switch (glob_[i]) {
      case '*':
        regex_ += ".*";
        return std::min(glob_.find_first_not_of('*', i), glob_.size());
      case '?':
        regex_ += '.';
        return i + 1;
      case '[':
        if (const size_t end = SetEnd(glob_, i, last_bracket_); end != kNone) {
          AppendSet(glob_.substr(i + 1, end - i - 1), regex_);
          return end + 1;
        }
        break;
      case '{':
        if (close_[i] != kNone) return OpenBrace(i);
        break;
      case ',':
        if (depth_ == 0) break;
        KEYLOAD_RETURN_IF_ERROR(TakeAlternatives(1));
        regex_ += '|';
        return i + 1;
      case '}':
        if (depth_ == 0) break;
        --depth_;
        regex_ += ')';
        return i + 1;
      default:
        break;
    }
    const std::string_view character = CharacterAt(glob_, i);
    AppendLiteral(character, regex_);
    return i + character.size();
  }

  absl::StatusOr<size_t> OpenBrace(size_t i) {
    const std::optional<IntegerRange> range = ParseRange(glob_.substr(i + 1, close_[i] - i - 1));
    if (!range.has_value()) {
      if (++depth_ > kMaxNesting) return Invalid(absl::StrCat("braces nest more than ", kMaxNesting, " deep"));
      regex_ += "(?:";
      return i + 1;
    }
    // The difference of two int64 fits uint64; it is compared before one is added.
    const uint64_t steps = static_cast<uint64_t>(range->high) - static_cast<uint64_t>(range->low);
    if (steps >= alternatives_left_) return TooManyAlternatives();
    alternatives_left_ -= steps;
    regex_ += "(?:";
    for (uint64_t step = 0; step <= steps; ++step) {
      const auto value = static_cast<int64_t>(static_cast<uint64_t>(range->low) + step);
      absl::StrAppend(&regex_, step == 0 ? "" : "|", value);
    }
    regex_ += ')';
    return close_[i] + 1;
  }

  absl::Status TakeAlternatives(uint64_t count) {
    if (count > alternatives_left_) return TooManyAlternatives();
    alternatives_left_ -= count;
    return absl::OkStatus();
  }

  absl::Status TooManyAlternatives() const { return Invalid("too many alternatives"); }
  absl::Status Invalid(std::string_view why) const {
    return MakeError(Reason::kPatternInvalid, absl::StrFormat("glob '%s': %s", glob_, why),
                     {{"pattern", std::string(glob_)}});
  }

  const std::string_view glob_;
  uint64_t& alternatives_left_;
  const size_t last_bracket_;
  std::vector<size_t> close_;
  size_t depth_ = 0;
  std::string regex_;
};

}  // namespace

absl::StatusOr<std::string> GlobToRegex(std::string_view glob, uint64_t& alternatives_left) {
  return Translator(glob, alternatives_left).Run();
}

}  // namespace keyload
