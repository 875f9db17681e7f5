#include "server/placement/name_trie.h"

namespace keyload {

uint32_t NameTrie::Insert(std::string_view name) {
  uint32_t node = kRoot;
  ForEachComponent(name, [&](std::string_view component, std::string_view prefix) {
    const auto [child, inserted] = children_.try_emplace({node, component}, static_cast<uint32_t>(nodes_.size()));
    if (inserted) nodes_.push_back({.name = prefix, .parent = node});
    node = child->second;
    return true;
  });
  return node;
}

std::optional<uint32_t> NameTrie::Child(uint32_t parent, std::string_view component) const {
  const auto child = children_.find(std::pair(parent, component));
  if (child == children_.end()) return std::nullopt;
  return child->second;
}

}  // namespace keyload
