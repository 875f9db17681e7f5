#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "server/plan/load_plan.h"

namespace keyload {

// Gives tensors that need memory a segment of a plan, and their places in it.
//
// Use: Add every tensor in file order, then LayOut them all. Not thread-safe.
class SegmentLayout {
 public:
  explicit SegmentLayout(LoadPlan& plan) : plan_(plan), unit_of_(plan.devices.size()) {}

  // Notes the eviction unit of `tensor`, which `key` names, or that it is `alone`: PlannedTensor::segment is the number
  // of the unit until LayOut. `key` must live until then.
  void Add(PlannedTensor& tensor, std::string_view key, uint16_t device, bool alone);
  // Appends the segments to the plan: one for a unit of at least 2 MiB and for one that is alone, one for several
  // smaller ones, in the order of their first tensors, until they are 2 MiB together. Sets the tensors' segments and
  // offsets. REQUIRES: `tensors` are those of Add, in that order.
  void LayOut(std::span<PlannedTensor> tensors);

 private:
  struct Unit {
    uint64_t bytes = 0;
    uint32_t segment = 0;
    uint16_t device = 0;
    bool alone = false;
  };
  uint32_t UnitOf(std::string_view name, uint16_t device);
  void GiveSegments();
  void Place(std::span<PlannedTensor> run);

  LoadPlan& plan_;
  std::vector<Unit> units_;
  std::vector<absl::flat_hash_map<std::string_view, uint32_t>> unit_of_;  // per device
  int64_t last_unit_ = -1;                                                // that UnitOf gave last, and its name
  std::string_view last_name_;
};

// What is evicted together: the module up to its last numbered component ("model.layers.3.mlp.experts.17"), else the
// parent module. A part of `key`.
std::string_view EvictionUnit(std::string_view key);

}  // namespace keyload
