#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "server/placement/placement.h"

namespace keyload {

// Sets Placement::devices and device_of from `device_of`, indices into `devices`: only devices that are used, in order
// of first use.
inline void SetDevices(const std::vector<std::string>& devices, const std::vector<uint32_t>& device_of,
                       Placement& placement) {
  std::vector<int32_t> renumbered(devices.size(), -1);
  placement.device_of.reserve(device_of.size());
  for (const uint32_t device : device_of) {
    if (renumbered[device] < 0) {
      renumbered[device] = static_cast<int32_t>(placement.devices.size());
      placement.devices.push_back(devices[device]);
    }
    placement.device_of.push_back(static_cast<uint16_t>(renumbered[device]));
  }
}

}  // namespace keyload
