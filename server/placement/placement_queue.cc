#include "server/placement/placement_queue.h"

namespace keyload {

PlacementQueue::PlacementQueue(const ModuleTree& tree)
    : tree_(tree),
      end_(static_cast<uint32_t>(tree.items().size())),
      next_(tree.items().size() + 1, end_),
      previous_(tree.items().size() + 1, end_),
      waiting_(tree.items().size(), false),
      carried_bytes_(tree.items().size(), 0) {
  ForEachPart(tree, 0, [&](uint32_t part) { Insert(previous_[end_], part); });
  for (uint32_t child = tree.FirstChild(0); child != kNoItem; child = tree.NextSibling(child)) {
    if (tree[child].buffer) Insert(previous_[end_], child);
  }
}

void PlacementQueue::Insert(uint32_t after, uint32_t item) {
  const uint32_t before = next_[after];
  next_[after] = item;
  previous_[item] = after;
  next_[item] = before;
  previous_[before] = item;
  waiting_[item] = true;
}

void PlacementQueue::Remove(uint32_t item) {
  next_[previous_[item]] = next_[item];
  previous_[next_[item]] = previous_[item];
  waiting_[item] = false;
}

void PlacementQueue::Split(uint32_t module) {
  uint32_t after = previous_[module];
  Remove(module);
  uint64_t buffers = carried_bytes_[module];
  for (uint32_t child = tree_.FirstChild(module); child != kNoItem; child = tree_.NextSibling(child)) {
    if (tree_[child].buffer) buffers += tree_[child].bytes;
  }
  ForEachPart(tree_, module, [&](uint32_t part) {
    Insert(after, part);
    after = part;
  });
  carried_bytes_[CarrierOf(module)] = buffers;
  split_modules_.push_back(module);
}

uint32_t PlacementQueue::CarrierOf(uint32_t module) const {
  uint32_t child = tree_.FirstChild(module);
  while (tree_[child].buffer) child = tree_.NextSibling(child);
  return child;
}

uint32_t PlacementQueue::Holder(uint32_t item) const {
  while (item != kNoItem && !waiting_[item]) item = tree_[item].parent;
  return item;
}

}  // namespace keyload
