#pragma once

#include <cstdint>
#include <vector>

#include "server/placement/module_tree.h"

namespace keyload {

// The parts of a model that wait for a device, in the order in which they are tried. Together with what is placed
// already and with the item in hand they cover the tree, and no item waits beside one above it. All operations are O(1)
// but for the walk up in Holder and the children in Split.
//
// A split module's direct buffers do not wait themselves (accelerate loses them: its map does not cover them). They
// ride with the module's first part: its first direct parameter, or without one its first child module, and so on down
// if that is split too. SizeOf includes them.
class PlacementQueue {
 public:
  explicit PlacementQueue(const ModuleTree& tree);

  bool empty() const { return next_[end_] == end_; }
  uint32_t front() const { return next_[end_]; }
  uint32_t Next(uint32_t item) const { return next_[item]; }  // end() after the last
  uint32_t end() const { return end_; }

  void PushFront(uint32_t item) { Insert(end_, item); }
  void Remove(uint32_t item);
  // Replaces the waiting `module` by its direct parameters and its child modules, in place.
  void Split(uint32_t module);

  // The waiting item at or above `item`; kNoItem when it is placed.
  uint32_t Holder(uint32_t item) const;
  uint64_t SizeOf(uint32_t item) const { return tree_[item].bytes + carried_bytes_[item]; }
  uint64_t BufferBytesOf(uint32_t item) const { return tree_[item].buffer_bytes + carried_bytes_[item]; }
  // The part that carries the direct buffers of the split `module`.
  uint32_t CarrierOf(uint32_t module) const;
  const std::vector<uint32_t>& split_modules() const { return split_modules_; }

  // Looking ahead in a search: marks `item` as waiting or not, without touching the order.
  void Mark(uint32_t item, bool waiting) { waiting_[item] = waiting; }

 private:
  void Insert(uint32_t after, uint32_t item);

  const ModuleTree& tree_;
  const uint32_t end_;  // the sentinel of the list, which is circular
  std::vector<uint32_t> next_;
  std::vector<uint32_t> previous_;
  std::vector<bool> waiting_;
  std::vector<uint64_t> carried_bytes_;
  std::vector<uint32_t> split_modules_;
};

// Calls visit(part) for what Split puts in the place of `module`: direct parameters, then child modules.
template <typename Visit>
void ForEachPart(const ModuleTree& tree, uint32_t module, Visit visit) {
  for (uint32_t child = tree.FirstChild(module); child != kNoItem; child = tree.NextSibling(child)) {
    if (!tree[child].buffer) visit(child);
  }
}

}  // namespace keyload
