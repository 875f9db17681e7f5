#pragma once

#include <cstdint>
#include <vector>

#include "server/placement/max_memory.h"
#include "server/placement/module_tree.h"
#include "server/placement/placement.h"

namespace keyload {

// The map of the policy "packed": what the tree does not split, in its order, in contiguous ranges over the GPUs in
// theirs, so that the fullest of them is as empty as possible, placed bytes over limit. That minimum is exact. Parts
// with tied tensors between them are one part, at the place of the first. What no GPU can hold alone, and from the
// first part on that does not fit behind the others, goes to cpu by the same rule, and then to disk. A device with
// limit 0 gets nothing.
// Per item of the tree: index into `limits`, limits.size() for disk; -1 without an entry. Every tensor is covered by an
// entry at or above it. `limits` are GPUs first, as ResolveMaxMemory gives them. O(items) and a logarithm per device.
std::vector<int32_t> PackDeviceMap(const PlacementModel& model, const ModuleTree& tree,
                                   const std::vector<DeviceLimit>& limits);

}  // namespace keyload
