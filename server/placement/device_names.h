#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "server/placement/placement.h"

namespace keyload {

inline constexpr std::string_view kCpuDevice = "cpu";
inline constexpr std::string_view kDiskDevice = "disk";

// The devices that a placement may name, by every name they have. Immutable.
class DeviceNames {
 public:
  explicit DeviceNames(const std::vector<PlacementDevice>& devices);

  // The device's own name: a bare N and "cuda:N" give "cuda:N", "cuda" gives "cuda:0", a uuid its alias. "cpu" and
  // "disk" are always known. DEVICE_UNKNOWN names the device and those that are known.
  absl::StatusOr<std::string> Normalise(std::string_view name) const;

 private:
  absl::flat_hash_map<std::string, std::string> canonical_;  // name or uuid -> name
  std::string known_;                                        // for messages
};

// Whether `name` is written as a device is, known or not: "cpu", "disk", "cuda...", a number, "GPU-...".
bool LooksLikeDevice(std::string_view name);

// "cuda:3" -> 3; -1 for anything that is not a GPU.
int64_t GpuIndex(std::string_view device);

}  // namespace keyload
