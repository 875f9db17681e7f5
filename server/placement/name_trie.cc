#include "server/placement/name_trie.h"

#include <bit>

#include "absl/hash/hash.h"
#include "server/base/strings.h"

namespace keyload {

void NameTrie::Reserve(size_t count) {
  nodes_.reserve(count);
  if (const size_t slots = std::bit_ceil(count + count / 3 + 1); slots > slots_.size()) Rehash(slots);
}

size_t NameTrie::Hash(uint32_t parent, std::string_view component) { return absl::HashOf(parent, ToAbsl(component)); }

std::string_view NameTrie::ComponentOf(uint32_t node) const {
  const uint32_t parent = nodes_[node].parent;
  return nodes_[node].name.substr(parent == kRoot ? 0 : nodes_[parent].name.size() + 1);
}

size_t NameTrie::SlotOf(uint32_t parent, std::string_view component, size_t hash) const {
  const size_t mask = slots_.size() - 1;
  for (size_t i = hash & mask;; i = (i + 1) & mask) {
    const auto [tag, node] = slots_[i];
    if (node == kRoot) return i;
    if (tag == hash >> 32 && nodes_[node].parent == parent && ComponentOf(node) == component) return i;
  }
}

void NameTrie::Rehash(size_t slots) {
  slots_.assign(slots, Slot());
  for (uint32_t node = 1; node < nodes_.size(); ++node) {
    const std::string_view component = ComponentOf(node);
    const size_t hash = Hash(nodes_[node].parent, component);
    slots_[SlotOf(nodes_[node].parent, component, hash)] = {.tag = static_cast<uint32_t>(hash >> 32), .node = node};
  }
}

uint32_t NameTrie::Insert(std::string_view name) {
  path_.resize(SharedWithPath(name));
  const size_t begin = path_.empty() ? 0 : nodes_[path_.back()].name.size() + 1;
  ForEachComponent(name, begin, [&](std::string_view component, size_t end) {
    const uint32_t parent = path_.empty() ? kRoot : path_.back();
    const size_t hash = Hash(parent, component);
    Slot& slot = slots_[SlotOf(parent, component, hash)];
    uint32_t node = slot.node;
    if (node == kRoot) {
      node = static_cast<uint32_t>(nodes_.size());
      slot = {.tag = static_cast<uint32_t>(hash >> 32), .node = node};
      nodes_[parent].leaf = false;
      nodes_.push_back({.name = name.substr(0, end), .parent = parent});
      if (nodes_.size() > slots_.size() / 4 * 3) Rehash(2 * slots_.size());
    }
    path_.push_back(node);
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
  const uint32_t child = slots_[SlotOf(parent, component, Hash(parent, component))].node;
  if (child == kRoot) return std::nullopt;
  return child;
}

}  // namespace keyload
