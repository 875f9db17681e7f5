#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/placement/device_names.h"
#include "server/placement/placement.h"

namespace keyload {

// How many bytes a policy may put on a device.
struct DeviceLimit {
  std::string device;  // the device's own name; never "disk"
  uint64_t bytes = 0;
  bool gpu = false;
  bool operator==(const DeviceLimit&) const = default;
};

// The limits of a request in the order in which they are filled: GPUs ascending, then cpu. A request that names devices
// uses those alone, with the limits as given, even above what is free now; one that names none uses all of the snapshot
// with their free memory. What fits nowhere goes to disk, so a limit for disk is accepted and means nothing.
// DEVICE_UNKNOWN; DEVICE_MAP_INVALID: a device named twice with different limits.
absl::StatusOr<std::vector<DeviceLimit>> ResolveMaxMemory(const DeviceMapSpec& spec, const DeviceNames& names,
                                                          const std::vector<PlacementDevice>& devices);

}  // namespace keyload
