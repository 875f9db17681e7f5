#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "server/device/device.h"
#include "server/plan/load_plan.h"

namespace keyload {

// One allocation of a model, or one of its files.
struct Segment {
  SegmentKind kind = SegmentKind::kMemory;
  Device* device = nullptr;              // lives as long as the daemon
  std::shared_ptr<DeviceMemory> memory;  // kMemory; null while no tensor of the segment is resident
  uint32_t shard = 0;                    // kFile
};

// The segments that may be allocated with unspecified contents, if ZeroPadding follows: those in host memory whose
// tensors all belong to `plan`, which is not so for a part of a plan. Other devices zero a segment at almost no cost.
std::vector<bool> FilledSegments(const LoadPlan& plan);
// Zeroes what no tensor of `plan` covers of the segments in `filled` that have memory, unless it is 0 as new memory is.
void ZeroPadding(const LoadPlan& plan, const std::vector<bool>& filled, const std::vector<Segment>& segments);

}  // namespace keyload
