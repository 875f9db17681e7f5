#pragma once

#include <cstdint>
#include <vector>

#include "server/placement/module_tree.h"

namespace keyload {

// One line of a map over a tree: `item` and all below it without a line of their own go to `device`.
struct TreeMapEntry {
  uint32_t item = 0;
  int32_t device = 0;
};

// The entries of `device_of` (per item; -1: no entry) in the order of the tree. Where two or more entries below a
// module, and the module's own if it has one, agree, one entry for the module replaces them, as accelerate's
// clean_device_map does: a single entry keeps its name.
std::vector<TreeMapEntry> CleanDeviceMap(const ModuleTree& tree, const std::vector<int32_t>& device_of);

}  // namespace keyload
