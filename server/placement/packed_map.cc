#include "server/placement/packed_map.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <utility>

#include "server/placement/contiguous_parts.h"

namespace keyload {
namespace {

class Packing {
 public:
  Packing(const PlacementModel& model, const ModuleTree& tree, const std::vector<DeviceLimit>& limits)
      : tree_(tree), limits_(limits), part_of_(tree.items().size(), kNoItem), device_of_(tree.items().size(), -1) {
    FindParts();
    Tie(model);
  }

  std::vector<int32_t> Run() && {
    std::vector<uint32_t> waiting;
    for (uint32_t part = 0; part < first_of_.size(); ++part) {
      if (first_of_[part] == part) waiting.push_back(part);
    }
    for (const bool gpu : {true, false}) waiting = PlaceOn(gpu, waiting);
    for (const uint32_t part : waiting) Settle(part, limits_.size());
    for (uint32_t item = 1; item < tree_.items().size(); ++item) {
      if (const uint32_t part = part_of_[item]; part != kNoItem) device_of_[item] = part_device_[first_of_[part]];
    }
    return std::move(device_of_);
  }

 private:
  // A part is what is never split: a direct parameter of a module that is, a module without child modules, one of a
  // no-split class. Direct buffers of a split module go with the first part in it.
  void FindParts() {
    std::vector<uint32_t> part_items;  // ascending
    std::vector<uint32_t> buffers;
    for (uint32_t item = 1; item < tree_.items().size();) {
      if (tree_.CanSplit(item)) {
        ++item;
        continue;
      }
      if (tree_[item].buffer) {
        buffers.push_back(item);
      } else {
        AddPart(item);
        part_items.push_back(item);
      }
      item = tree_[item].end;
    }
    for (const uint32_t buffer : buffers) AddBuffer(buffer, part_items);
  }

  void AddPart(uint32_t item) {
    part_of_[item] = static_cast<uint32_t>(bytes_.size());
    bytes_.push_back(tree_[item].bytes);
  }

  void AddBuffer(uint32_t buffer, const std::vector<uint32_t>& part_items) {
    const uint32_t module = tree_[buffer].parent;
    const auto first = std::lower_bound(part_items.begin(), part_items.end(), module);
    if (first == part_items.end() || *first >= tree_[module].end) return AddPart(buffer);
    part_of_[buffer] = part_of_[*first];
    bytes_[part_of_[buffer]] += tree_[buffer].bytes;
  }

  // Unites the parts that a tied group is in; the first of them stands for all.
  void Tie(const PlacementModel& model) {
    first_of_.resize(bytes_.size());
    std::iota(first_of_.begin(), first_of_.end(), 0);
    part_device_.assign(bytes_.size(), -1);
    for (const std::vector<uint32_t>& group : model.tied_groups) {
      for (const uint32_t member : group) Unite(First(PartOf(group[0])), First(PartOf(member)));
    }
    for (uint32_t part = 0; part < first_of_.size(); ++part) first_of_[part] = First(part);
  }

  uint32_t PartOf(uint32_t tensor) const {
    uint32_t item = tree_.ItemOf(tensor);
    while (part_of_[item] == kNoItem) item = tree_[item].parent;
    return part_of_[item];
  }

  uint32_t First(uint32_t part) {
    while (first_of_[part] != part) part = first_of_[part] = first_of_[first_of_[part]];
    return part;
  }

  void Unite(uint32_t a, uint32_t b) {
    if (a == b) return;
    if (b < a) std::swap(a, b);
    first_of_[b] = a;
    bytes_[a] += std::exchange(bytes_[b], 0);
  }

  // Places what fits of `parts` on the GPUs, or on the devices that are none, and returns the rest, in order.
  std::vector<uint32_t> PlaceOn(bool gpu, const std::vector<uint32_t>& parts) {
    std::vector<uint32_t> devices;
    std::vector<uint64_t> limits;
    uint64_t largest = 0;
    for (uint32_t d = 0; d < limits_.size(); ++d) {
      if (limits_[d].gpu != gpu || limits_[d].bytes == 0) continue;
      devices.push_back(d);
      limits.push_back(limits_[d].bytes);
      largest = std::max(largest, limits_[d].bytes);
    }
    if (devices.empty()) return parts;
    std::vector<uint32_t> row;
    std::vector<uint64_t> bytes;
    for (const uint32_t part : parts) {
      if (bytes_[part] > largest) continue;
      row.push_back(part);
      bytes.push_back(bytes_[part]);
    }
    uint32_t next = 0;
    const std::vector<uint32_t> ends = CutIntoRanges(bytes, limits);
    for (size_t d = 0; d < devices.size(); ++d) {
      for (; next < ends[d]; ++next) Settle(row[next], devices[d]);
    }
    std::vector<uint32_t> rest;
    std::copy_if(parts.begin(), parts.end(), std::back_inserter(rest),
                 [this](uint32_t part) { return part_device_[part] < 0; });
    return rest;
  }

  void Settle(uint32_t part, size_t device) { part_device_[part] = static_cast<int32_t>(device); }

  const ModuleTree& tree_;
  const std::vector<DeviceLimit>& limits_;
  std::vector<uint32_t> part_of_;     // per item; kNoItem for what is above or below a part
  std::vector<uint64_t> bytes_;       // per part
  std::vector<uint32_t> first_of_;    // per part: the first one that it is tied to, itself if none
  std::vector<int32_t> part_device_;  // per part that is a first
  std::vector<int32_t> device_of_;    // per item
};

}  // namespace

std::vector<int32_t> PackDeviceMap(const PlacementModel& model, const ModuleTree& tree,
                                   const std::vector<DeviceLimit>& limits) {
  return Packing(model, tree, limits).Run();
}

}  // namespace keyload
