#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace keyload {

// Dotted names as a tree of their components: "a.b" is a child of "a". Nodes are numbered in the order of insertion,
// the root (the empty name) is 0. The names are borrowed and must outlive the trie. Thread-compatible.
class NameTrie {
 public:
  static constexpr uint32_t kRoot = 0;
  struct Node {
    std::string_view name;  // the whole dotted name
    uint32_t parent = kRoot;
    bool leaf = true;
  };

  NameTrie() : nodes_(1), slots_(16) {}

  // Room for `count` nodes in all.
  void Reserve(size_t count);
  // The node of `name`; it and its ancestors are inserted where they are absent. Looks up only the components that the
  // name before did not begin with, so names in registration order are cheap.
  uint32_t Insert(std::string_view name);
  std::optional<uint32_t> Child(uint32_t parent, std::string_view component) const;
  const std::vector<Node>& nodes() const { return nodes_; }

 private:
  // Finds a node by its parent and its last component, which the node itself has: a slot is eight bytes.
  struct Slot {
    uint32_t tag = 0;
    uint32_t node = kRoot;  // kRoot: free
  };

  static size_t Hash(uint32_t parent, std::string_view component);
  std::string_view ComponentOf(uint32_t node) const;
  // The slot of the child, or the free one where it belongs.
  size_t SlotOf(uint32_t parent, std::string_view component, size_t hash) const;
  void Rehash(size_t slots);
  // How many components of `name` lie on path_.
  size_t SharedWithPath(std::string_view name) const;

  std::vector<Node> nodes_;
  std::vector<uint32_t> path_;  // the nodes of the name inserted last, outermost first, without the root
  std::vector<Slot> slots_;     // a power of two, more than a quarter of them free
};

// Calls visit(component, its end in `name`) for each component from the one that starts at `begin`, until it returns
// false. The empty name has no components.
template <typename Visit>
void ForEachComponent(std::string_view name, size_t begin, Visit visit) {
  while (!name.empty() && begin <= name.size()) {
    const size_t end = std::min(name.find('.', begin), name.size());
    if (!visit(name.substr(begin, end - begin), end)) return;
    begin = end + 1;
  }
}

}  // namespace keyload
