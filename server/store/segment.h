#pragma once

#include <cstdint>
#include <memory>

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

}  // namespace keyload
