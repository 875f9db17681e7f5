#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/placement/device_names.h"
#include "server/placement/placement.h"

namespace keyload {

// Places by the entries of the request: the longest dotted prefix of a tensor's name decides, "" is a prefix of all. A
// tied group follows its first member. Computed tensors need no entry. The map of the result holds the entries that
// cover a tensor, the ones that match neither tensor nor module are one warning. DEVICE_UNKNOWN; DEVICE_MAP_INVALID:
// one name with two devices; DEVICE_MAP_INCOMPLETE: tensors without a device. What the entries take is counted in
// `context`, which is asked now and then; null: neither. MEMORY_EXHAUSTED, and its errors.
absl::StatusOr<Placement> PlaceExplicitly(const PlacementModel& model,
                                          const std::vector<std::pair<std::string, std::string>>& entries,
                                          const DeviceNames& names, const RequestContext* context);

}  // namespace keyload
