#include "server/placement/max_memory.h"

#include <algorithm>
#include <limits>

#include "absl/container/flat_hash_map.h"
#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

void SortForFilling(std::vector<DeviceLimit>& limits) {
  const auto rank = [](const DeviceLimit& limit) {
    return limit.gpu ? GpuIndex(limit.device) : std::numeric_limits<int64_t>::max();
  };
  std::stable_sort(limits.begin(), limits.end(), [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
}

}  // namespace

absl::StatusOr<std::vector<DeviceLimit>> ResolveMaxMemory(const DeviceMapSpec& spec, const DeviceNames& names,
                                                          const std::vector<PlacementDevice>& devices) {
  std::vector<DeviceLimit> limits;
  absl::flat_hash_map<std::string, uint64_t> seen;
  for (const auto& [name, bytes] : spec.max_memory) {
    KEYLOAD_ASSIGN_OR_RETURN(const std::string device, names.Normalise(name));
    const auto [earlier, inserted] = seen.try_emplace(device, bytes);
    if (!inserted && earlier->second != bytes) {
      return MakeError(Reason::kDeviceMapInvalid,
                       StrCat("max_memory limits ", device, " to ", earlier->second, " and to ", bytes),
                       {{"device", device}});
    }
    if (inserted && device != kDiskDevice)
      limits.push_back({.device = device, .bytes = bytes, .gpu = GpuIndex(device) >= 0});
  }
  if (spec.max_memory.empty()) {
    for (const PlacementDevice& device : devices) {
      if (device.name == kDiskDevice) continue;
      limits.push_back({.device = device.name, .bytes = device.free_bytes, .gpu = GpuIndex(device.name) >= 0});
    }
  }
  SortForFilling(limits);
  return limits;
}

}  // namespace keyload
