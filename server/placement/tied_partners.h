#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "server/placement/module_tree.h"
#include "server/placement/placement.h"
#include "server/placement/placement_queue.h"

namespace keyload {

// A tensor outside of an item that is tied to one inside, and the waiting item that it would come along with.
struct TiedPartner {
  uint32_t tensor_item = 0;
  uint32_t holder = 0;
};

// The tied groups of a model, by their place in the tree. Inside and outside are decided by whole dotted prefixes.
class TiedPartners {
 public:
  TiedPartners(const PlacementModel& model, const ModuleTree& tree);

  // The partners of `item` that still wait, in the order of the tree. A partner whose place is settled already is left
  // out: it takes no room any more. Linear in the tied tensors inside and in their groups.
  std::vector<TiedPartner> Of(uint32_t item, const PlacementQueue& queue);
  uint64_t last_cost() const { return last_cost_; }  // tensors looked at by the last Of

 private:
  const ModuleTree& tree_;
  std::vector<std::vector<uint32_t>> groups_;           // tensor items
  std::vector<std::pair<uint32_t, uint32_t>> members_;  // tensor item, group; ascending
  std::vector<uint64_t> visited_;                       // per group: the call that looked at it last
  uint64_t calls_ = 0;
  uint64_t last_cost_ = 0;
};

}  // namespace keyload
