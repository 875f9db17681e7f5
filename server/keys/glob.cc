#include "server/keys/glob.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
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

// Sorts them, and makes one of those that overlap or touch.
void Merge(std::vector<std::pair<char32_t, char32_t>>& ranges) {
  std::sort(ranges.begin(), ranges.end());
  size_t kept = 0;
  for (const auto& range : ranges) {
    if (kept > 0 && range.first <= ranges[kept - 1].second + 1) {
      ranges[kept - 1].second = std::max(ranges[kept - 1].second, range.second);
    } else {
      ranges[kept++] = range;
    }
  }
  ranges.resize(kept);
}

// `body` is what stands between the brackets.
CharacterSet SetOf(std::string_view body) {
  CharacterSet set;
  set.complement = body.starts_with('!');
  if (set.complement) body.remove_prefix(1);
  while (!body.empty()) {
    const DecodedCharacter low = DecodeCharacter(body);
    body.remove_prefix(low.length);
    char32_t last = low.character;
    if (body.size() >= 2 && body[0] == '-') {
      const DecodedCharacter high = DecodeCharacter(body.substr(1));
      body.remove_prefix(1 + high.length);
      last = high.character;
    }
    if (low.character <= last) set.ranges.emplace_back(low.character, last);  // an empty range is none, as in fnmatch
  }
  Merge(set.ranges);
  return set;
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

class GlobParser {
 public:
  GlobParser(std::string_view glob, GlobBudget& budget)
      : glob_(glob), budget_(budget), last_bracket_(glob.rfind(']')) {}

  absl::StatusOr<std::vector<GlobPiece>> Run() {
    for (size_t i = 0; i < glob_.size();) {
      const DecodedCharacter next = DecodeCharacter(glob_.substr(i));
      if (next.character >= kFirstInvalid) return Invalid("it is not UTF-8");
      i += next.length;
    }
    PairBraces();
    KEYLOAD_RETURN_IF_ERROR(TakeAlternatives(1));
    for (size_t i = 0; i < glob_.size();) {
      KEYLOAD_ASSIGN_OR_RETURN(i, Step(i));
    }
    return std::move(pieces_);
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

  using Kind = GlobPiece::Kind;
  void Add(Kind kind) { pieces_.push_back({.kind = kind, .character = 0, .set = {}}); }
  void AddLiteral(char32_t character) {
    pieces_.push_back({.kind = Kind::kLiteral, .character = character, .set = {}});
  }

  // Takes what begins at `i`; returns where the next piece begins.
  absl::StatusOr<size_t> Step(size_t i) {
    switch (glob_[i]) {
      case '*':
        Add(Kind::kStar);
        return std::min(glob_.find_first_not_of('*', i), glob_.size());
      case '?':
        Add(Kind::kAny);
        return i + 1;
      case '[':
        if (const size_t end = SetEnd(glob_, i, last_bracket_); end != kNone) {
          pieces_.push_back({.kind = Kind::kSet, .character = 0, .set = SetOf(glob_.substr(i + 1, end - i - 1))});
          return end + 1;
        }
        break;
      case '{':
        if (close_[i] != kNone) return OpenBrace(i);
        break;
      case ',':
        if (depth_ == 0) break;
        KEYLOAD_RETURN_IF_ERROR(TakeAlternatives(1));
        Add(Kind::kNext);
        return i + 1;
      case '}':
        if (depth_ == 0) break;
        --depth_;
        Add(Kind::kClose);
        return i + 1;
      default:
        break;
    }
    const DecodedCharacter literal = DecodeCharacter(glob_.substr(i));
    AddLiteral(literal.character);
    return i + literal.length;
  }

  absl::StatusOr<size_t> OpenBrace(size_t i) {
    const std::optional<IntegerRange> range = ParseRange(glob_.substr(i + 1, close_[i] - i - 1));
    if (!range.has_value()) {
      if (++depth_ > kMaxNesting) return Invalid(absl::StrCat("braces nest more than ", kMaxNesting, " deep"));
      Add(Kind::kOpen);
      return i + 1;
    }
    // The difference of two int64 fits uint64; it is compared before one is added.
    const uint64_t steps = static_cast<uint64_t>(range->high) - static_cast<uint64_t>(range->low);
    if (steps >= budget_.alternatives) return TooManyAlternatives();
    budget_.alternatives -= steps;
    for (uint64_t step = 0; step <= steps; ++step) {
      Add(step == 0 ? Kind::kOpen : Kind::kNext);
      const std::string value = absl::StrCat(static_cast<int64_t>(static_cast<uint64_t>(range->low) + step));
      const uint64_t pieces = value.size() + 1;
      if (pieces > budget_.range_pieces) return TooManyAlternatives();
      budget_.range_pieces -= pieces;
      for (const char digit : value) AddLiteral(static_cast<unsigned char>(digit));
    }
    Add(Kind::kClose);
    return close_[i] + 1;
  }

  absl::Status TakeAlternatives(uint64_t count) {
    if (count > budget_.alternatives) return TooManyAlternatives();
    budget_.alternatives -= count;
    return absl::OkStatus();
  }

  absl::Status TooManyAlternatives() const { return Invalid("too many alternatives"); }
  absl::Status Invalid(std::string_view why) const {
    return MakeError(Reason::kPatternInvalid, absl::StrFormat("glob '%s': %s", glob_, why),
                     {{"pattern", std::string(glob_)}});
  }

  const std::string_view glob_;
  GlobBudget& budget_;
  const size_t last_bracket_;
  std::vector<size_t> close_;
  size_t depth_ = 0;
  std::vector<GlobPiece> pieces_;
};

}  // namespace

bool CharacterSet::Contains(char32_t character) const {
  const auto behind = std::upper_bound(ranges.begin(), ranges.end(), character,
                                       [](char32_t c, const auto& range) { return c < range.first; });
  const bool listed = behind != ranges.begin() && character <= std::prev(behind)->second;
  return listed != complement;
}

DecodedCharacter DecodeCharacter(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  if (lead < 0x80) return {.character = lead, .length = 1};
  const uint32_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  static constexpr char32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  char32_t character = lead & (0xFF >> (length + 1));
  bool valid = lead >= 0xC2 && lead <= 0xF4 && text.size() >= length;
  for (uint32_t i = 1; valid && i < length; ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    valid = (byte & 0xC0) == 0x80;
    character = character << 6 | (byte & 0x3F);
  }
  const bool surrogate = character >= 0xD800 && character <= 0xDFFF;
  if (!valid || character < kSmallest[length] || character > 0x10FFFF || surrogate)
    return {.character = kFirstInvalid + lead, .length = 1};
  return {.character = character, .length = length};
}

absl::StatusOr<std::vector<GlobPiece>> ParseGlob(std::string_view glob, GlobBudget& budget) {
  return GlobParser(glob, budget).Run();
}

}  // namespace keyload
