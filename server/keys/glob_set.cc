#include "server/keys/glob_set.h"

#include <algorithm>
#include <bit>
#include <deque>
#include <optional>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "server/base/error.h"

namespace keyload {
namespace {

constexpr char32_t kAscii = 128;
constexpr size_t kWordBits = 64;
using Kind = GlobPiece::Kind;

void AppendUtf8(char32_t character, std::string& text) {
  if (character < 0x80) {
    text += static_cast<char>(character);
    return;
  }
  const int more = character < 0x800 ? 1 : character < 0x10000 ? 2 : 3;
  text += static_cast<char>((0xFF00 >> (more + 1)) | (character >> (6 * more)));
  for (int i = more - 1; i >= 0; --i) text += static_cast<char>(0x80 | (character >> (6 * i) & 0x3F));
}

// The plain text at the beginning of `pieces`, which it is taken off.
std::string TakeLiteral(std::span<const GlobPiece>& pieces) {
  std::string text;
  while (!pieces.empty() && pieces.front().kind == Kind::kLiteral) {
    AppendUtf8(pieces.front().character, text);
    pieces = pieces.subspan(1);
  }
  return text;
}

// Whether the set has every character that is not ASCII (true), or none (false); nothing when it has some.
std::optional<bool> TakesAllWide(const CharacterSet& set) {
  const bool ascii =
      std::all_of(set.ranges.begin(), set.ranges.end(), [](const auto& range) { return range.second < kAscii; });
  return ascii ? std::optional(set.complement) : std::nullopt;
}

}  // namespace

uint32_t GlobSet::Trie::Insert(std::string_view text) {
  uint32_t node = 0;
  for (const char byte : text) {
    uint32_t child = Child(node, byte);
    if (child == kNone) {
      child = static_cast<uint32_t>(nodes_.size());
      if (nodes_[node].first_child == kNone) {
        nodes_[node].first_byte = byte;
        nodes_[node].first_child = child;
      } else {
        children_.emplace(Edge(node, byte), child);
      }
      nodes_.emplace_back();
    }
    node = child;
  }
  return node;
}

uint32_t GlobSet::Trie::OtherChild(uint32_t node, char byte) const {
  const auto child = children_.find(Edge(node, byte));
  return child == children_.end() ? kNone : child->second;
}

// Numbers the states in the order of the pieces, so that whatever follows without a character lies behind.
class GlobSet::Builder {
 public:
  void Add(std::span<const GlobPiece> pieces) {
    set_.empty_ = false;
    if (pieces.size() > 1 && pieces.front().kind == Kind::kStar) {
      std::span<const GlobPiece> rest = pieces.subspan(1);
      std::string text = TakeLiteral(rest);
      if (rest.empty()) {
        std::reverse(text.begin(), text.end());
        set_.suffixes_[set_.suffixes_.Insert(text)].ends = true;
        return;
      }
    }
    Trie::Node& node = set_.prefixes_[set_.prefixes_.Insert(TakeLiteral(pieces))];
    if (pieces.empty()) {
      node.ends = true;
    } else if (pieces.size() == 1 && pieces.front().kind == Kind::kStar) {
      node.matches_all = true;
    } else {
      node.states.push_back(static_cast<uint32_t>(states_.size()));
      AddStates(pieces);
    }
  }

  GlobSet Finish() && {
    const size_t words = set_.words_ = (states_.size() + kWordBits - 1) / kWordBits;
    set_.takes_.resize(words * kAscii);
    for (std::vector<uint64_t>* row :
         {&set_.takes_wide_, &set_.stays_, &set_.accepts_, &set_.accepts_always_, &set_.follows_}) {
      row->resize(words);
    }
    for (uint32_t i = 0; i < states_.size(); ++i) SetState(i);
    AddFollows();
    set_.steps_per_byte_ = 1 + words + set_.follow_list_.size() + set_.targets_.size();
    for (const WideState& wide : set_.wide_states_) set_.steps_per_byte_ += 1 + std::bit_width(wide.set.ranges.size());
    return std::move(set_);
  }

 private:
  struct State {
    const CharacterSet* set = nullptr;  // null: takes no character
    bool stays = false;
    bool accepts = false;
  };
  struct Group {
    uint32_t open = 0;
    std::vector<uint32_t> begins;  // of its alternatives
    std::vector<uint32_t> ends;
  };

  uint32_t AddState(const CharacterSet* set) {
    states_.push_back({.set = set, .stays = std::exchange(star_, false)});
    return static_cast<uint32_t>(states_.size() - 1);
  }

  void AddStates(std::span<const GlobPiece> pieces) {
    static const CharacterSet* const kEvery = new CharacterSet{.ranges = {}, .complement = true};
    std::vector<Group> open;
    for (const GlobPiece& piece : pieces) {
      switch (piece.kind) {
        case Kind::kStar:
          star_ = true;
          break;
        case Kind::kLiteral:
          sets_.push_back({.ranges = {{piece.character, piece.character}}, .complement = false});
          AddState(&sets_.back());
          break;
        case Kind::kAny:
          AddState(kEvery);
          break;
        case Kind::kSet:
          sets_.push_back(piece.set);
          AddState(&sets_.back());
          break;
        case Kind::kOpen:
          open.push_back({.open = AddState(nullptr), .begins = {}, .ends = {}});
          open.back().begins.push_back(open.back().open + 1);
          break;
        case Kind::kNext:
        case Kind::kClose:
          open.back().ends.push_back(AddState(nullptr));
          if (piece.kind == Kind::kNext) {
            open.back().begins.push_back(static_cast<uint32_t>(states_.size()));
          } else {
            Close(std::move(open.back()));
            open.pop_back();
          }
          break;
      }
    }
    states_[AddState(nullptr)].accepts = true;
  }

  // The state after the group is the next one that is added.
  void Close(Group group) {
    const std::vector<Bits> begins = InWords(group.begins);
    AddFollow(InWords(std::vector{group.open}).front(), begins);
    const std::vector<Bits> after = InWords(std::vector{static_cast<uint32_t>(states_.size())});
    for (const Bits& ends : InWords(group.ends)) AddFollow(ends, after);
  }

  static std::vector<Bits> InWords(const std::vector<uint32_t>& states) {  // ascending
    std::vector<Bits> words;
    for (const uint32_t state : states) {
      if (words.empty() || words.back().word != state / kWordBits) {
        words.push_back({.word = static_cast<uint32_t>(state / kWordBits), .bits = 0});
      }
      words.back().bits |= uint64_t{1} << state % kWordBits;
    }
    return words;
  }

  void AddFollow(const Bits& from, const std::vector<Bits>& targets) {
    const auto first = static_cast<uint32_t>(set_.targets_.size());
    set_.targets_.insert(set_.targets_.end(), targets.begin(), targets.end());
    follows_.emplace_back(
        from.word, Follow{.from = from.bits, .first = first, .end = static_cast<uint32_t>(set_.targets_.size())});
  }

  void SetState(uint32_t number) {
    const State& state = states_[number];
    const Bits at = InWords({number}).front();
    if (state.stays) set_.stays_[at.word] |= at.bits;
    if (state.accepts) set_.accepts_[at.word] |= at.bits;
    if (state.accepts && state.stays) set_.accepts_always_[at.word] |= at.bits;
    if (state.set == nullptr) return;
    const auto take = [&](char32_t c) { set_.takes_[c * set_.words_ + at.word] |= at.bits; };
    for (const auto& [from, to] : state.set->ranges) {
      for (char32_t c = from; !state.set->complement && c <= to && c < kAscii; ++c) take(c);
    }
    for (char32_t c = 0; state.set->complement && c < kAscii; ++c) {
      if (state.set->Contains(c)) take(c);
    }
    const std::optional<bool> all_wide = TakesAllWide(*state.set);
    if (!all_wide) set_.wide_states_.push_back({.state = at, .set = *state.set});
    if (all_wide.value_or(false)) set_.takes_wide_[at.word] |= at.bits;
  }

  // By word, and there by the last of their states: what one of them reaches in its word, a later one begins from.
  void AddFollows() {
    std::sort(follows_.begin(), follows_.end(), [](const auto& a, const auto& b) {
      return a.first != b.first ? a.first < b.first : std::bit_width(a.second.from) < std::bit_width(b.second.from);
    });
    set_.first_follow_.resize(set_.words_ + 1);
    for (const auto& [word, follow] : follows_) {
      set_.follows_[word] |= follow.from;
      ++set_.first_follow_[word + 1];
      set_.follow_list_.push_back(follow);
    }
    for (size_t word = 0; word < set_.words_; ++word) set_.first_follow_[word + 1] += set_.first_follow_[word];
  }

  GlobSet set_;
  std::vector<State> states_;
  std::deque<CharacterSet> sets_;                     // of the states
  std::vector<std::pair<uint32_t, Follow>> follows_;  // by word
  bool star_ = false;                                 // before the next state
};

absl::StatusOr<GlobSet> GlobSet::Compile(std::span<const std::string> globs, GlobBudget& budget) {
  Builder builder;
  for (const std::string& glob : globs) {
    KEYLOAD_ASSIGN_OR_RETURN(const std::vector<GlobPiece> pieces, ParseGlob(glob, budget));
    builder.Add(pieces);
  }
  return std::move(builder).Finish();
}

uint64_t GlobSet::Trie::memory_bytes() const {
  uint64_t bytes = nodes_.capacity() * sizeof(Node) + children_.capacity() * (sizeof(uint64_t) + sizeof(uint32_t) + 5);
  for (const Node& node : nodes_) bytes += node.states.capacity() * sizeof(uint32_t);
  return bytes;
}

uint64_t GlobSet::memory_bytes() const {
  uint64_t bytes = prefixes_.memory_bytes() + suffixes_.memory_bytes() + wide_states_.capacity() * sizeof(WideState) +
                   first_follow_.capacity() * sizeof(uint32_t) + follow_list_.capacity() * sizeof(Follow) +
                   targets_.capacity() * sizeof(Bits);
  for (const std::vector<uint64_t>* row : {&takes_, &takes_wide_, &stays_, &accepts_, &accepts_always_, &follows_}) {
    bytes += row->capacity() * sizeof(uint64_t);
  }
  for (const WideState& wide : wide_states_) bytes += wide.set.ranges.capacity() * sizeof(wide.set.ranges[0]);
  return bytes;
}

// The automaton on its way through one name.
class GlobSet::Run {
 public:
  explicit Run(const GlobSet& set) : set_(set), reached_(set.words_) {}

  bool any() const { return first_ < end_; }

  void Reach(uint32_t state) { Reach(state / kWordBits, uint64_t{1} << state % kWordBits); }

  // Reaches what follows the reached states without a character. True when one is an end with a star before it: then
  // the name matches, whatever comes.
  bool FollowAll() {
    for (size_t word = first_; word < end_; ++word) {  // what follows lies behind
      if ((reached_[word] & set_.follows_[word]) == 0) continue;
      for (uint32_t i = set_.first_follow_[word]; i < set_.first_follow_[word + 1]; ++i) {
        const Follow& follow = set_.follow_list_[i];
        if ((reached_[word] & follow.from) == 0) continue;
        for (uint32_t t = follow.first; t < follow.end; ++t) Reach(set_.targets_[t].word, set_.targets_[t].bits);
      }
    }
    uint64_t surely = 0;
    for (size_t word = first_; word < end_; ++word) surely |= reached_[word] & set_.accepts_always_[word];
    return surely != 0;
  }

  void Take(char32_t character) {
    const uint64_t* const takes = Row(character);
    uint64_t* const reached = reached_.data();
    const uint64_t* const stays = set_.stays_.data();
    const size_t end = end_;
    uint64_t carry = 0;  // from the last state of the word before
    for (size_t word = first_; word < end; ++word) {
      const uint64_t moved = reached[word] & takes[word];
      reached[word] = moved << 1 | carry | (reached[word] & stays[word]);
      carry = moved >> (kWordBits - 1);
    }
    if (carry != 0) Reach(end, 1);
    while (first_ < end_ && reached[first_] == 0) ++first_;
    while (first_ < end_ && reached[end_ - 1] == 0) --end_;
  }

  bool Accepts() const {
    for (size_t word = first_; word < end_; ++word) {
      if ((reached_[word] & set_.accepts_[word]) != 0) return true;
    }
    return false;
  }

 private:
  void Reach(size_t word, uint64_t states) {
    reached_[word] |= states;
    first_ = any() ? std::min(first_, word) : word;
    end_ = std::max(end_, word + 1);
  }

  const uint64_t* Row(char32_t character) {
    if (character < kAscii) return &set_.takes_[character * set_.words_];
    if (set_.wide_states_.empty()) return set_.takes_wide_.data();
    wide_row_ = set_.takes_wide_;
    for (const WideState& wide : set_.wide_states_) {
      if (wide.set.Contains(character)) wide_row_[wide.state.word] |= wide.state.bits;
    }
    return wide_row_.data();
  }

  const GlobSet& set_;
  absl::InlinedVector<uint64_t, 32> reached_;  // states
  size_t first_ = 0;                           // words that are not 0 are from here
  size_t end_ = 0;                             // to here
  std::vector<uint64_t> wide_row_;
};

bool GlobSet::MatchesSuffix(std::string_view name) const {
  uint32_t node = 0;
  for (size_t i = name.size(); i-- > 0;) {
    node = suffixes_.Child(node, name[i]);
    if (node == Trie::kNone) return false;
    if (suffixes_[node].ends) return true;
  }
  return false;
}

bool GlobSet::Matches(std::string_view name) const {
  if (!suffixes_.empty() && MatchesSuffix(name)) return true;
  Run run(*this);
  uint32_t node = 0;
  for (size_t position = 0;;) {
    if (node != Trie::kNone) {
      if (prefixes_[node].matches_all) return true;
      for (const uint32_t state : prefixes_[node].states) run.Reach(state);
    }
    const bool any = run.any();
    if (any && run.FollowAll()) return true;
    if (position == name.size()) return (node != Trie::kNone && prefixes_[node].ends) || (any && run.Accepts());
    if (node == Trie::kNone && !any) return false;
    DecodedCharacter next = {.character = static_cast<unsigned char>(name[position]), .length = 1};
    if (next.character >= kAscii) next = DecodeCharacter(name.substr(position));
    if (any) run.Take(next.character);
    for (uint32_t i = 0; i < next.length && node != Trie::kNone; ++i) node = prefixes_.Child(node, name[position + i]);
    position += next.length;
  }
}

}  // namespace keyload
