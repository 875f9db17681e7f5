#pragma once

#include "server/service/prepare.h"

namespace keyload {

// The report of a plan: keys, names, device map, devices, shards, bytes selected and warnings. Outcome PLANNED.
LoadReport MakePlanReport(const LoadSpec& spec, const PreparedKeys& prepared, const PlacementInput& input,
                          const Placement& placement, const LoadPlan& plan, const std::vector<PlacementDevice>& devices,
                          const DeviceSet& node);

}  // namespace keyload
