#include "server/placement/name_trie.h"

namespace keyload {

uint32_t NameTrie::Insert(std::string_view name) {
  path_.resize(SharedWithPath(name));
  const size_t begin = path_.empty() ? 0 : nodes_[path_.back()].name.size() + 1;
  ForEachComponent(name, begin, [&](std::string_view component, size_t end) {
    const uint32_t parent = path_.empty() ? kRoot : path_.back();
    const auto [child, inserted] = children_.try_emplace({parent, component}, static_cast<uint32_t>(nodes_.size()));
    if (inserted) {
      nodes_[parent].leaf = false;
      nodes_.push_back({.name = name.substr(0, end), .parent = parent});
    }
    path_.push_back(child->second);
    return true;
  });
  return path_.empty() ? kRoot : path_.back();
}

size_t NameTrie::SharedWithPath(std::string_view name) const {
  if (name.empty() || path_.empty()) return 0;
  const std::string_view last = nodes_[path_.back()].name;
  const auto differ = std::mismatch(name.begin(), name.end(), last.begin(), last.end()).first;
  const size_t common = static_cast<size_t>(differ - name.begin());
  size_t shared = 0;
  for (; shared < path_.size(); ++shared) {
    const size_t length = nodes_[path_[shared]].name.size();
    if (length > common || (length < name.size() && name[length] != '.')) break;
  }
  return shared;
}

std::optional<uint32_t> NameTrie::Child(uint32_t parent, std::string_view component) const {
  if (nodes_[parent].leaf) return std::nullopt;
  const auto child = children_.find(std::pair(parent, component));
  if (child == children_.end()) return std::nullopt;
  return child->second;
}

}  // namespace keyload
