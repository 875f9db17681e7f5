#include "server/placement/balanced_memory.h"

#include <algorithm>

namespace keyload {
namespace {

uint64_t BiggestNoSplitModule(const ModuleTree& tree) {
  uint64_t biggest = 0;
  for (uint32_t i = 1; i < tree.items().size(); ++i) {
    if (tree[i].no_split) biggest = std::max(biggest, tree[i].bytes);
  }
  return biggest;
}

// Over the modules that hold tensors and whose child modules hold none.
uint64_t MeanLeafModule(const ModuleTree& tree) {
  std::vector<bool> inner(tree.items().size());
  for (uint32_t i = 1; i < tree.items().size(); ++i) {
    if (tree[i].is_module() && tree[i].counted_tensors > 0) inner[tree[i].parent] = true;
  }
  uint64_t sum = 0;
  uint64_t count = 0;
  for (uint32_t i = 1; i < tree.items().size(); ++i) {
    if (!tree[i].is_module() || tree[i].counted_tensors == 0 || inner[i]) continue;
    sum += tree[i].bytes;
    ++count;
  }
  return count == 0 ? 0 : sum / count;
}

uint64_t SaturatingAdd(uint64_t a, uint64_t b) { return a + b < a ? UINT64_MAX : a + b; }

}  // namespace

std::vector<DeviceLimit> BalanceMemory(const ModuleTree& tree, std::vector<DeviceLimit> limits,
                                       const BalanceOptions& options) {
  std::vector<DeviceLimit*> gpus;
  for (DeviceLimit& limit : limits) {
    if (limit.gpu && limit.bytes > 0) gpus.push_back(&limit);
  }
  if (gpus.empty()) return limits;
  if (gpus.size() == 1) {
    uint64_t& bytes = gpus[0]->bytes;
    if (!options.limits_given) bytes = bytes / 10 * 9 + bytes % 10 * 9 / 10;
    return limits;
  }
  const uint64_t total = tree[0].bytes;
  const uint64_t allowance = std::max(BiggestNoSplitModule(tree), MeanLeafModule(tree));
  const uint64_t share = total / (gpus.size() - (options.low_zero ? 1 : 0)) + allowance + allowance / 4;
  // The last keeps its own limit: the allowance may not be enough.
  for (size_t i = options.low_zero ? 1 : 0; i + 1 < gpus.size(); ++i) gpus[i]->bytes = std::min(share, gpus[i]->bytes);
  if (options.low_zero) {
    uint64_t others = 0;
    for (size_t i = 1; i < gpus.size(); ++i) others = SaturatingAdd(others, gpus[i]->bytes);
    gpus[0]->bytes = std::min(total > others ? total - others : 0, gpus[0]->bytes);
  }
  return limits;
}

}  // namespace keyload
