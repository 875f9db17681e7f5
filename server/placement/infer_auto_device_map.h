#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/request_context.h"
#include "server/placement/max_memory.h"
#include "server/placement/module_tree.h"
#include "server/placement/placement.h"

namespace keyload {

struct InferOptions {
  bool offload_buffers = false;             // buffers may stay on cpu and disk
  bool fallback_allocation = false;         // a device that would stay empty gets the first later module that fits
  const RequestContext* context = nullptr;  // asked now and then; null: never
};

// A device that got nothing, and how much the part that was tried on it needs.
struct EmptyDevice {
  uint32_t device = 0;  // index into the limits
  uint64_t needed_bytes = 0;
};

struct InferredMap {
  std::vector<int32_t>
      device_of;  // per item of the tree: index into the limits, limits.size() for disk; -1 without an entry
  std::vector<EmptyDevice> empty_devices;
  uint64_t stranded_buffer_bytes = 0;  // buffers of offloaded modules that fit on no GPU; 0 without a GPU
};

// Fills the devices in their order and puts the rest on disk, after accelerate's infer_auto_device_map (1.15), entries
// not yet collapsed. Every tensor is covered by an entry at or above it. It differs from accelerate thus: direct
// buffers of a split module are mapped (see PlacementQueue) and count where they go; tied tensors are found by whole
// dotted prefixes; a partner that is placed already, or that is a direct tensor itself, is no crash; a fallback that
// does not fit after all is tried once. LOAD_CANCELLED and DEADLINE_EXCEEDED of the context.
absl::StatusOr<InferredMap> InferAutoDeviceMap(const PlacementModel& model, const ModuleTree& tree,
                                               const std::vector<DeviceLimit>& limits, const InferOptions& options);

}  // namespace keyload
