#include "server/placement/clean_device_map.h"

#include <algorithm>

namespace keyload {
namespace {

constexpr int32_t kNone = -1;
constexpr int32_t kMixed = -2;

int32_t Merge(int32_t a, int32_t b) {
  if (a == kNone || a == b) return b;
  return b == kNone ? a : kMixed;
}

}  // namespace

std::vector<TreeMapEntry> CleanDeviceMap(const ModuleTree& tree, const std::vector<int32_t>& device_of) {
  const uint32_t count = static_cast<uint32_t>(tree.items().size());
  std::vector<int32_t> device = device_of;  // of all entries at or below
  std::vector<uint32_t> entries_below(count, 0);
  for (uint32_t i = count; i-- > 1;) {
    const uint32_t parent = tree[i].parent;
    device[parent] = Merge(device[parent], device[i]);
    entries_below[parent] += entries_below[i] + (device_of[i] == kNone ? 0 : 1);
  }
  std::vector<TreeMapEntry> map;
  uint32_t inherits_before = 0;  // below an entry, what has none of its own goes where that goes: its parts do not tell
  for (uint32_t i = 0; i < count;) {
    const bool told = device_of[i] != kNone || i >= inherits_before;
    const bool collapse = entries_below[i] > 1 && device[i] != kMixed && told;
    if (collapse || device_of[i] != kNone)
      map.push_back({.item = i, .device = device[i] == kMixed ? device_of[i] : device[i]});
    if (device_of[i] != kNone) inherits_before = std::max(inherits_before, tree[i].end);
    i = collapse ? tree[i].end : i + 1;
  }
  return map;
}

}  // namespace keyload
