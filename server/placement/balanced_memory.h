#pragma once

#include <vector>

#include "server/placement/max_memory.h"
#include "server/placement/module_tree.h"

namespace keyload {

struct BalanceOptions {
  bool low_zero = false;      // as little as possible on the first GPU that has memory
  bool limits_given = false;  // the request named them; else a lone GPU keeps a tenth of its memory free
};

// Lowers the limits of all GPUs but the last so that each gets a like share of the model, after accelerate's
// get_balanced_memory. The allowance on top of the share is the biggest no-split module of all (accelerate looks at the
// first of each class only, and so underrates a dense layer behind small ones) or the mean leaf module.
std::vector<DeviceLimit> BalanceMemory(const ModuleTree& tree, std::vector<DeviceLimit> limits,
                                       const BalanceOptions& options);

}  // namespace keyload
