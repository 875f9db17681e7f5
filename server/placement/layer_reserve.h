#pragma once

#include <cstdint>
#include <vector>

#include "server/placement/module_tree.h"

namespace keyload {

// The space to keep free on the first GPU and on cpu: the size of the biggest layer that is not placed yet, so that an
// offloaded layer can be brought back. A layer is a module that is never split: without child modules or of a no-split
// class.
//
// accelerate keeps a list of the layers that have the biggest size and looks for a new maximum only when the list has
// run empty; layers that were placed as partners of a tied tensor stay in it, and the first list also holds the root's
// direct tensors. Which devices are full depends on this, so it is kept, as a count: a step costs O(log layers), not a
// walk over the model.
class LayerReserve {
 public:
  explicit LayerReserve(const ModuleTree& tree);

  uint64_t bytes() const { return bytes_; }
  // `item` was taken from the front of the queue.
  void OnTaken(uint32_t item);
  // An item was split: the maximum of all that is in the queue or in hand.
  void Recompute() { Recompute(kNoItem); }
  void OnPlaced(uint32_t item);
  // An item was replaced by its parts without a new maximum.
  void OnExpanded(uint32_t item);

 private:
  struct SizeGroup {  // layers of one size
    uint64_t bytes = 0;
    std::vector<uint32_t> layers;  // ascending
    uint32_t waiting = 0;          // of them not placed
  };

  void Recompute(uint32_t without);
  uint32_t CountUnder(const SizeGroup& group, uint32_t item) const;

  const ModuleTree& tree_;
  std::vector<SizeGroup> groups_;     // by size, descending
  std::vector<uint32_t> next_group_;  // the next group that may have layers waiting; index 0 is before the first group
  std::vector<uint32_t> group_of_;    // per item; kNoItem if it is no layer
  std::vector<uint32_t> dropped_round_;  // per item: the round in which its layers left the list
  uint32_t round_ = 0;                   // of computing the maximum
  uint64_t bytes_ = 0;
  uint64_t listed_ = 0;  // layers in accelerate's list
  uint32_t listed_group_ = kNoItem;
};

}  // namespace keyload
