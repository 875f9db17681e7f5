#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace keyload {

// Dotted names as a tree of their components: "a.b" is a child of "a". Nodes are numbered in the order of insertion,
// the root (the empty name) is 0. The names are borrowed and must outlive the trie. Thread-compatible.
class NameTrie {
 public:
  static constexpr uint32_t kRoot = 0;
  struct Node {
    std::string_view name;  // the whole dotted name
    uint32_t parent = kRoot;
  };

  NameTrie() : nodes_(1) {}

  // The node of `name`; it and its ancestors are inserted where they are absent. Linear in the components.
  uint32_t Insert(std::string_view name);
  std::optional<uint32_t> Child(uint32_t parent, std::string_view component) const;
  const std::vector<Node>& nodes() const { return nodes_; }

 private:
  std::vector<Node> nodes_;
  absl::flat_hash_map<std::pair<uint32_t, std::string_view>, uint32_t> children_;
};

// Calls visit(component, prefix) for each component of `name`, outermost first, until it returns false. No call for "".
template <typename Visit>
void ForEachComponent(std::string_view name, Visit visit) {
  if (name.empty()) return;
  for (size_t begin = 0; begin <= name.size();) {
    size_t end = name.find('.', begin);
    if (end == std::string_view::npos) end = name.size();
    if (!visit(name.substr(begin, end - begin), name.substr(0, end))) return;
    begin = end + 1;
  }
}

}  // namespace keyload
