#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "server/keys/glob.h"

namespace keyload {

// Tells whether any of a list of globs matches a whole name, in one pass over the name.
//
// The characters before a glob's first wildcard are a path of a trie, shared by all globs that begin alike: a name that
// leaves the trie matches none of them, and most names leave it early. What follows the wildcard is a nondeterministic
// automaton whose states are bits, so that one character moves 64 states at a time. A glob that is a star before plain
// text is a path of a second trie, which is walked from the end of the name. Nothing is cached and nothing backtracks:
// the time for one byte of a name is bounded by steps_per_byte(), whatever the globs and the name are. Immutable,
// thread-safe.
class GlobSet {
 public:
  // PATTERN_INVALID names the glob; see ParseGlob.
  static absl::StatusOr<GlobSet> Compile(std::span<const std::string> globs, GlobBudget& budget);

  GlobSet() = default;  // matches nothing
  bool empty() const { return empty_; }
  bool Matches(std::string_view name) const;
  // The most words of 64 states that one byte of a name can cost.
  uint64_t steps_per_byte() const { return steps_per_byte_; }
  // What it takes of the heap. Linear in the globs.
  uint64_t memory_bytes() const;

 private:
  class Builder;
  class Run;

  struct Bits {  // of one word
    uint32_t word = 0;
    uint64_t bits = 0;
  };
  // Where one of the states `from` is reached, so are those of `targets_` from `first` to `end`, which lie behind it.
  struct Follow {
    uint64_t from = 0;
    uint32_t first = 0;
    uint32_t end = 0;
  };
  // Takes a character that is not ASCII.
  struct WideState {
    Bits state;
    CharacterSet set;
  };
  class Trie {
   public:
    static constexpr uint32_t kNone = UINT32_MAX;
    struct Node {
      bool ends = false;                  // a text ends here
      bool matches_all = false;           // so does a text with a star behind it
      std::vector<uint32_t> states = {};  // begin here
      char first_byte = 0;                // of the child that came first; the others are in children_
      uint32_t first_child = kNone;
    };
    uint32_t Insert(std::string_view text);
    uint32_t Child(uint32_t node, char byte) const {
      const Node& parent = nodes_[node];
      if (parent.first_child == kNone) return kNone;
      return parent.first_byte == byte ? parent.first_child : OtherChild(node, byte);
    }
    Node& operator[](uint32_t node) { return nodes_[node]; }
    const Node& operator[](uint32_t node) const { return nodes_[node]; }
    bool empty() const { return nodes_.size() == 1; }
    uint64_t memory_bytes() const;

   private:
    static uint64_t Edge(uint32_t node, char byte) { return uint64_t{node} << 8 | static_cast<unsigned char>(byte); }
    uint32_t OtherChild(uint32_t node, char byte) const;

    std::vector<Node> nodes_ = {Node()};
    absl::flat_hash_map<uint64_t, uint32_t> children_;  // by parent and byte
  };

  bool MatchesSuffix(std::string_view name) const;

  bool empty_ = true;
  uint64_t steps_per_byte_ = 0;
  Trie prefixes_;
  Trie suffixes_;  // back to front
  // The automaton. A state is reached or not; a character moves it to the next one if it takes it. Per word:
  size_t words_ = 0;
  std::vector<uint64_t> takes_;       // by ASCII character: the states that take it
  std::vector<uint64_t> takes_wide_;  // that take every other character; those that take some are wide_states_
  std::vector<WideState> wide_states_;
  std::vector<uint64_t> stays_;           // that stay reached: a star is before them
  std::vector<uint64_t> accepts_;         // at the end of a glob
  std::vector<uint64_t> accepts_always_;  // the same, with a star before it
  std::vector<uint64_t> follows_;         // that others follow without a character, and where these are in follow_list_
  std::vector<uint32_t> first_follow_;
  std::vector<Follow> follow_list_;
  std::vector<Bits> targets_;
};

}  // namespace keyload
